// JSON with one meaning per document: duplicate keys, lone surrogates, deep nesting and odd numbers are refused.
// JSON.parse keeps the last of two equal keys, so that two readers could read two records from one signature.

const MAX_DEPTH = 32;
const MAX_NUMBER_LENGTH = 40;

// A number written with a point or an exponent: no integer, even where its value is one. The schema check unwraps it.
class Real {
  constructor(value) {
    this.value = value;
  }
}

function parseJson(bytes, subject) {
  const text = decodeUtf8(bytes, subject);
  const number = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?/y;
  const plain = /[^"\\\u0000-\u001f]*/y;
  let at = 0;

  const refuse = (reason) => {
    throw new Malformed(`${subject}: ${reason} at character ${at}`);
  };
  const skip = () => {
    while (" \t\n\r".includes(text.charAt(at)) && at < text.length) at += 1;
  };
  const expect = (token) => {
    if (!text.startsWith(token, at)) refuse("not JSON");
    at += token.length;
  };

  function string() {
    expect('"');
    let result = "";
    for (;;) {
      plain.lastIndex = at;
      const run = plain.exec(text)[0];
      result += run;
      at += run.length;
      if (text[at] === '"') break;
      if (text[at] !== "\\") refuse("a string that does not end, or a control character");
      const escape = text[at + 1];
      const simple = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };
      if (escape === "u" && /^[0-9a-fA-F]{4}$/.test(text.slice(at + 2, at + 6))) {
        result += String.fromCharCode(parseInt(text.slice(at + 2, at + 6), 16));
        at += 6;
      } else if (escape !== undefined && Object.hasOwn(simple, escape)) {
        result += simple[escape];
        at += 2;
      } else refuse("not JSON");
    }
    at += 1;
    if (/\p{Surrogate}/u.test(result)) refuse("half a character");
    return result;
  }

  function object(depth) {
    const result = Object.create(null);
    expect("{");
    skip();
    if (text[at] === "}") return (at += 1), result;
    for (;;) {
      skip();
      const key = string();
      if (key in result) refuse("a duplicate key");
      skip();
      expect(":");
      result[key] = value(depth);
      skip();
      if (text[at] === "}") return (at += 1), result;
      expect(",");
    }
  }

  function array(depth) {
    const result = [];
    expect("[");
    skip();
    if (text[at] === "]") return (at += 1), result;
    for (;;) {
      result.push(value(depth));
      skip();
      if (text[at] === "]") return (at += 1), result;
      expect(",");
    }
  }

  function numeral() {
    number.lastIndex = at;
    const found = number.exec(text);
    if (!found) refuse("not JSON");
    if (found[0].length > MAX_NUMBER_LENGTH || !Number.isFinite(Number(found[0]))) refuse("a number out of range");
    at += found[0].length;
    if (found[1] !== undefined || found[2] !== undefined) return new Real(Number(found[0]));
    const exact = BigInt(found[0]);
    return Number.isSafeInteger(Number(exact)) ? Number(exact) : exact;
  }

  function value(depth) {
    skip();
    const next = text[at];
    if (next === "{" || next === "[") {
      if (depth === MAX_DEPTH) refuse(`nested deeper than ${MAX_DEPTH} levels`);
      return next === "{" ? object(depth + 1) : array(depth + 1);
    }
    if (next === '"') return string();
    for (const [word, meaning] of [["true", true], ["false", false], ["null", null]]) {
      if (text.startsWith(word, at)) return (at += word.length), meaning;
    }
    return numeral();
  }

  const whole = value(0);
  skip();
  if (at !== text.length) refuse("something behind the document");
  return whole;
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Real);
const hasExactly = (value, ...names) =>
  isObject(value) && Object.keys(value).length === names.length && names.every((name) => name in value);
