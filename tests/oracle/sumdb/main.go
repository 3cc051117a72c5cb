// Command sumdb checks a ledger with golang.org/x/mod/sumdb, or makes proofs for ours to check.
//
//	sumdb check JOB.json     reads a ledger directory and the proofs we made for it
//	sumdb make N             writes notes, proofs and tiles of a tree with entries "entry 0" … to stdout
package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
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

type job struct {
	Directory   string
	Vkey        string
	Inclusion   []inclusion
	Consistency []consistency
}

type made struct {
	Vkey        string
	Note        []byte
	Root        tlog.Hash
	Inclusion   []inclusion
	Consistency []consistency
	Tiles       map[string][]byte
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
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
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
	fmt.Printf("%d entries, %d inclusion proofs, %d consistency proofs\n",
		size, len(work.Inclusion), len(work.Consistency))
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
	if out.Note, err = note.Sign(&note.Note{Text: text}, signer); err != nil {
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
	for _, t := range tlog.NewTiles(8, 0, size) {
		data, err := tlog.ReadTileData(t, &store)
		if err != nil {
			return err
		}
		out.Tiles[c2spPath(t)] = data
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}
