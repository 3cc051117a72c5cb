// Command sumdb checks a ledger with golang.org/x/mod/sumdb, or makes proofs for ours to check.
//
//	sumdb check JOB.json     reads a ledger directory and the proofs we made for it
//	sumdb make N             writes notes, proofs and tiles of a tree with entries "entry 0" … to stdout
package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	mathrand "math/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type inclusion struct {
	Index  int64
	Leaf   []byte
	Hashes []tlog.Hash
}

type consistency struct {
	Old     int64
	OldRoot tlog.Hash
	Hashes  []tlog.Hash
}

// between is a consistency proof between any two sizes.
type between struct {
	Old, New         int64
	OldRoot, NewRoot tlog.Hash
	Hashes           []tlog.Hash
}

type job struct {
	Directory   string
	Vkey        string
	Inclusion   []inclusion
	Consistency []consistency
	Between     []between
	Witness     string
	Seconds     uint64
}

type made struct {
	Vkey        string
	Note        []byte
	Root        tlog.Hash
	Inclusion   []inclusion
	Consistency []consistency
	Tiles       map[string][]byte
	Between     []between
	Witness     string
	Seconds     uint64
}

// cosigner is a witness as C2SP tlog-cosignature describes it, for Go's note package.
type cosigner struct {
	name    string
	public  ed25519.PublicKey
	private ed25519.PrivateKey
	seconds uint64 // of the last cosignature that held, or of those to make
}

func (c *cosigner) Name() string { return c.name }

func (c *cosigner) KeyHash() uint32 {
	sum := sha256.Sum256(append([]byte(c.name+"\n\x04"), c.public...))
	return binary.BigEndian.Uint32(sum[:])
}

func (c *cosigner) message(text []byte, seconds uint64) []byte {
	return []byte(fmt.Sprintf("cosignature/v1\ntime %d\n%s", seconds, text))
}

func (c *cosigner) Verify(text, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	c.seconds = binary.BigEndian.Uint64(signature)
	return ed25519.Verify(c.public, c.message(text, c.seconds), signature[8:])
}

func (c *cosigner) Sign(text []byte) ([]byte, error) {
	signature := binary.BigEndian.AppendUint64(nil, c.seconds)
	return append(signature, ed25519.Sign(c.private, c.message(text, c.seconds))...), nil
}

func (c *cosigner) vkey() string {
	key := base64.StdEncoding.EncodeToString(append([]byte{4}, c.public...))
	return fmt.Sprintf("%s+%08x+%s", c.name, c.KeyHash(), key)
}

func newCosigner(vkey string) (*cosigner, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, fmt.Errorf("witness vkey %q", vkey)
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 33 || key[0] != 4 {
		return nil, fmt.Errorf("witness vkey %q", vkey)
	}
	made := &cosigner{name: parts[0], public: key[1:]}
	if made.vkey() != vkey {
		return nil, fmt.Errorf("witness vkey %q has another key id", vkey)
	}
	return made, nil
}

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "check":
		err = check(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "make":
		err = create(os.Args[2])
	default:
		err = fmt.Errorf("usage: sumdb check JOB.json | sumdb make N")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// c2spPath is Go's tile path without the tile height, which C2SP fixes at 8.
func c2spPath(t tlog.Tile) string {
	return strings.Replace(t.Path(), "tile/8/", "tile/", 1)
}

// files reads tiles from a directory.
type files string

func (f files) Height() int { return 8 }

func (f files) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, t := range tiles {
		content, err := os.ReadFile(filepath.Join(string(f), c2spPath(t)))
		if err != nil {
			return nil, err
		}
		data = append(data, content)
	}
	return data, nil
}

func (f files) SaveTiles(tiles []tlog.Tile, data [][]byte) {}

func check(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var work job
	if err := json.Unmarshal(content, &work); err != nil {
		return err
	}
	verifier, err := note.NewVerifier(work.Vkey)
	if err != nil {
		return fmt.Errorf("vkey: %w", err)
	}
	signed, err := os.ReadFile(filepath.Join(work.Directory, "checkpoint"))
	if err != nil {
		return err
	}
	known := []note.Verifier{verifier}
	var witness *cosigner
	if work.Witness != "" {
		if witness, err = newCosigner(work.Witness); err != nil {
			return err
		}
		known = append(known, witness)
	}
	opened, err := note.Open(signed, note.VerifierList(known...))
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if len(opened.Sigs) != len(known) || len(opened.UnverifiedSigs) != 0 {
		return fmt.Errorf("%d of %d signatures hold", len(opened.Sigs), len(known))
	}
	if witness != nil && witness.seconds != work.Seconds {
		return fmt.Errorf("cosigned at %d, expected %d", witness.seconds, work.Seconds)
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return fmt.Errorf("checkpoint text %q", opened.Text)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return err
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return err
	}
	reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, files(work.Directory))
	for _, p := range work.Inclusion {
		leaf := tlog.RecordHash(p.Leaf)
		if err := tlog.CheckRecord(p.Hashes, size, root, p.Index, leaf); err != nil {
			return fmt.Errorf("inclusion of %d: %w", p.Index, err)
		}
		own, err := tlog.ProveRecord(size, p.Index, reader)
		if err != nil {
			return fmt.Errorf("own inclusion proof of %d from the tiles: %w", p.Index, err)
		}
		if fmt.Sprint(own) != fmt.Sprint(tlog.RecordProof(p.Hashes)) {
			return fmt.Errorf("inclusion proof of %d differs", p.Index)
		}
	}
	for _, p := range work.Consistency {
		if err := tlog.CheckTree(p.Hashes, size, root, p.Old, p.OldRoot); err != nil {
			return fmt.Errorf("consistency from %d: %w", p.Old, err)
		}
		own, err := tlog.ProveTree(size, p.Old, reader)
		if err != nil {
			return fmt.Errorf("own consistency proof from %d: %w", p.Old, err)
		}
		if fmt.Sprint(own) != fmt.Sprint(tlog.TreeProof(p.Hashes)) {
			return fmt.Errorf("consistency proof from %d differs", p.Old)
		}
	}
	for _, p := range work.Between {
		if err := tlog.CheckTree(p.Hashes, p.New, p.NewRoot, p.Old, p.OldRoot); err != nil {
			return fmt.Errorf("consistency of %d and %d: %w", p.Old, p.New, err)
		}
		own, err := tlog.ProveTree(p.New, p.Old, reader)
		if err != nil {
			return fmt.Errorf("own consistency proof of %d and %d: %w", p.Old, p.New, err)
		}
		if fmt.Sprint(own) != fmt.Sprint(tlog.TreeProof(p.Hashes)) {
			return fmt.Errorf("consistency proof of %d and %d differs", p.Old, p.New)
		}
	}
	fmt.Printf("%d entries, %d inclusion proofs, %d consistency proofs\n",
		size, len(work.Inclusion), len(work.Consistency)+len(work.Between))
	return nil
}

// memory is a hash store.
type memory []tlog.Hash

func (m *memory) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var found []tlog.Hash
	for _, i := range indexes {
		found = append(found, (*m)[i])
	}
	return found, nil
}

func create(count string) error {
	size, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		return err
	}
	var store memory
	var roots []tlog.Hash
	for i := int64(0); i < size; i++ {
		hashes, err := tlog.StoredHashes(i, []byte(fmt.Sprintf("entry %d", i)), &store)
		if err != nil {
			return err
		}
		store = append(store, hashes...)
		root, err := tlog.TreeHash(i+1, &store)
		if err != nil {
			return err
		}
		roots = append(roots, root)
	}
	secret, vkey, err := note.GenerateKey(rand.Reader, "go.example/log")
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		return err
	}
	out := made{Vkey: vkey, Root: roots[size-1], Tiles: map[string][]byte{}}
	text := fmt.Sprintf("go.example/log\n%d\n%s\n", size, out.Root)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	witness := &cosigner{"witness.go.example/w", public, private, 1772366400}
	out.Witness, out.Seconds = witness.vkey(), witness.seconds
	if out.Note, err = note.Sign(&note.Note{Text: text}, signer, witness); err != nil {
		return err
	}
	for i := int64(0); i < size; i += 1 + size/97 {
		proof, err := tlog.ProveRecord(size, i, &store)
		if err != nil {
			return err
		}
		out.Inclusion = append(out.Inclusion, inclusion{i, []byte(fmt.Sprintf("entry %d", i)), proof})
		trees, err := tlog.ProveTree(size, i+1, &store)
		if err != nil {
			return err
		}
		out.Consistency = append(out.Consistency, consistency{i + 1, roots[i], trees})
	}
	draw := mathrand.New(mathrand.NewSource(size))
	for i := 0; i < 200; i++ {
		old := 1 + draw.Int63n(size)
		later := old + draw.Int63n(size-old+1)
		proof, err := tlog.ProveTree(later, old, &store)
		if err != nil {
			return err
		}
		out.Between = append(out.Between, between{old, later, roots[old-1], roots[later-1], proof})
	}
	for _, t := range tlog.NewTiles(8, 0, size) {
		data, err := tlog.ReadTileData(t, &store)
		if err != nil {
			return err
		}
		out.Tiles[c2spPath(t)] = data
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}
