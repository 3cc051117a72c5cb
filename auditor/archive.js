// A bundle as one .zip, in the one form that ucaudit writes: nothing compressed, names in order, no times, no gaps.
// Anything else could be read in two ways (two directories, names twice, links), or be far larger than it looks.

const LOCAL = 0x04034b50;
const CENTRAL = 0x02014b50;
const END = 0x06054b50;

function crc32(bytes) {
  crc32.table ??= Uint32Array.from({ length: 256 }, (_, index) => {
    let value = index;
    for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
    return value;
  });
  let crc = 0xffffffff;
  for (const byte of bytes) crc = crc32.table[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

// Little-endian fields: [value, bytes], …
function fields(...pairs) {
  const out = [];
  for (const [value, size] of pairs) for (let byte = 0; byte < size; byte += 1) out.push((value >>> (8 * byte)) & 0xff);
  return Uint8Array.from(out);
}

function fixedHead(signature, name, bytes) {
  const crc = crc32(bytes);
  const maker = signature === CENTRAL ? [[0x0314, 2]] : [];
  // needs version 2.0, no flags, stored, 1 January 1980 0:00
  return fields([signature, 4], ...maker, [20, 2], [0, 2], [0, 2], [0, 2], [0x21, 2], [crc, 4], [bytes.length, 4],
    [bytes.length, 4], [name.length, 2], [0, 2]);
}

function readArchive(archive) {
  const view = new DataView(archive.buffer);
  const refuse = () => {
    throw new Malformed("not a .zip as ucaudit writes it: unpack it, and give this page the folder");
  };
  const same = (wanted, at) => sameBytes(archive.subarray(at, at + wanted.length), wanted) || refuse();
  const files = new Map();
  const directory = [];
  let [at, before] = [0, ""];
  while (at + 30 <= archive.length && view.getUint32(at, true) === LOCAL) {
    if (files.size === MAX_FILES) throw new Malformed(`more than ${MAX_FILES} files`);
    const [size, length] = [view.getUint32(at + 18, true), view.getUint16(at + 26, true)];
    const nameBytes = archive.subarray(at + 30, at + 30 + length);
    const bytes = archive.slice(at + 30 + length, at + 30 + length + size);
    if (nameBytes.length !== length || bytes.length !== size) refuse();
    const name = decodeUtf8(nameBytes, "a name in the archive");
    if (!/^[\x20-\x7e]+$/.test(name) || name <= before) refuse();
    checkName(name);
    checkSize(name, size);
    same(fixedHead(LOCAL, nameBytes, bytes), at);
    // no comment, one disk, plain file that its owner reads and writes
    const tail = fields([0, 2], [0, 2], [0, 2], [0o100644 << 16, 4], [at, 4]);
    directory.push(fixedHead(CENTRAL, nameBytes, bytes), tail, nameBytes);
    files.set(name, bytes);
    before = name;
    at += 30 + length + size;
  }
  const index = concat(...directory);
  const count = files.size;
  same(index, at);
  same(fields([END, 4], [0, 4], [count, 2], [count, 2], [index.length, 4], [at, 4], [0, 2]), at + index.length);
  if (archive.length !== at + index.length + 22) refuse();
  return files;
}
