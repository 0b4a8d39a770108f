package archive

import (
	"context"
	"errors"
	"path"
	"sync"
	"time"

	"cobox/storage/archive/fstree"
)

// A verification is one run of Verify.
type verification struct {
	a *Archive
	r *chunkReader
	meter
	chunks, bytes uint64
	seen          map[chunkPrefix]bool    // chunks that were planned
	dirs          map[fstree.ChunkID]bool // directories, by a hash of their content

	mu  sync.Mutex // guards bad
	bad map[chunkPrefix]error
}

// Verify reads every block that the snapshots need and checks every chunk in
// them, and names the files that are not whole. It takes about 40 bytes of
// memory for each chunk.
func (a *Archive) Verify(ctx context.Context, snaps []Snapshot, hooks Hooks) (VerifySummary, error) {
	began, before := time.Now(), a.fetched.Load()
	r, err := a.newChunkReader(ctx)
	if err != nil {
		return VerifySummary{}, err
	}
	defer r.close()
	v := &verification{a: a, r: r, seen: map[chunkPrefix]bool{}, bad: map[chunkPrefix]error{}}
	v.hooks = hooks
	stop := v.meter.run(func() uint64 { return a.fetched.Load() - before })
	sum := VerifySummary{Snapshots: len(snaps)}
	err = v.run(ctx, snaps)
	stop()
	sum.Files, sum.Chunks, sum.Bytes = v.meter.files.Load(), v.chunks, v.bytes
	sum.Damaged, sum.Failed = v.meter.list(), v.meter.errors.Load()
	sum.Blocks, sum.Duration = a.fetched.Load()-before, time.Since(began)
	return sum, err
}

func (v *verification) run(ctx context.Context, snaps []Snapshot) error {
	plan := readPlan{
		a: v.a, x: v.r.x,
		got: func(w *chunkWant, chunk []byte) error {
			v.meter.bytes.Add(uint64(len(chunk)))
			return nil
		},
		bad: func(w *chunkWant, err error) { v.lost(w.id, err) },
	}
	want := func(e fstree.Extent) error {
		k := chunkPrefix(e.ID[:16])
		if e.Hole || v.seen[k] {
			return nil
		}
		v.seen[k] = true
		v.chunks++
		v.bytes += e.Length
		v.meter.totalBytes.Add(e.Length)
		plan.add(e, 0, nil)
		if len(plan.wants) >= planChunks {
			return plan.run(ctx)
		}
		return nil
	}
	v.dirs = map[fstree.ChunkID]bool{}
	for i := range snaps {
		err := v.walk(ctx, "/", &snaps[i].root, func(_ string, n *fstree.Node, lost error) error {
			if n.Kind == fstree.File {
				v.meter.files.Add(1)
			}
			v.lose(n, lost)
			for _, e := range n.Content {
				if err := want(e); err != nil {
					return err
				}
			}
			if !n.Indirect {
				return nil
			}
			err := v.r.extents(ctx, n, func(es []fstree.Extent) error {
				for _, e := range es {
					if err := want(e); err != nil {
						return err
					}
				}
				return nil
			})
			if errors.Is(err, errDamaged) {
				v.lose(n, err)
				err = nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	v.meter.known()
	if err := plan.run(ctx); err != nil {
		return err
	}
	return v.name(ctx, snaps)
}

func (v *verification) lost(id fstree.ChunkID, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bad[chunkPrefix(id[:16])] = err
}

// lose remembers that a listing or a list of extents could not be read, if so. What
// it names was not looked at, also if its chunks turn out to be there later.
func (v *verification) lose(n *fstree.Node, err error) {
	if err != nil && len(n.Content) > 0 {
		v.lost(n.Content[0].ID, err)
	}
}

// name walks again and reports the files that bad chunks belong to.
func (v *verification) name(ctx context.Context, snaps []Snapshot) error {
	if len(v.bad) == 0 {
		return nil
	}
	v.dirs = map[fstree.ChunkID]bool{}
	for i := range snaps {
		err := v.walk(ctx, "/", &snaps[i].root, func(p string, n *fstree.Node, lost error) error {
			var bad error
			look := func(es []fstree.Extent) error {
				for _, e := range es {
					if err := v.bad[chunkPrefix(e.ID[:16])]; err != nil && !e.Hole {
						bad = err
					}
				}
				return nil
			}
			look(n.Content)
			if bad == nil && n.Kind == fstree.File {
				if err := v.r.extents(ctx, n, look); errors.Is(err, errDamaged) {
					bad = err
				} else if err != nil {
					return err
				}
			}
			if bad == nil {
				bad = lost
			}
			if bad != nil {
				v.meter.fail(&FileError{Path: p, Op: OpDamaged, Err: bad}, true)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// walk calls fn for everything below a directory, and the directory, whose
// listing may be lost in part. A directory that several snapshots have in
// common is walked once.
func (v *verification) walk(ctx context.Context, p string, n *fstree.Node, fn func(p string, n *fstree.Node, lost error) error) error {
	if len(n.Content) > 0 {
		var ids []byte
		for _, e := range n.Content {
			ids = append(ids, e.ID[:]...)
		}
		key := v.r.hash.chunkID(ids)
		if v.dirs[key] {
			return nil
		}
		v.dirs[key] = true
	}
	nodes, err := v.r.read(ctx, n)
	if err != nil && !errors.Is(err, errDamaged) {
		return err
	}
	if err := fn(p, n, err); err != nil {
		return err
	}
	if err := v.r.prefetch(ctx, nodes); err != nil {
		return err
	}
	for i := range nodes {
		at := path.Join(p, nodes[i].Name)
		if nodes[i].Kind == fstree.Directory {
			if err := v.walk(ctx, at, &nodes[i], fn); err != nil {
				return err
			}
		} else if err := fn(at, &nodes[i], nil); err != nil {
			return err
		}
	}
	return ctx.Err()
}
