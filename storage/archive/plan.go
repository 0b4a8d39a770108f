package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"cobox/storage/archive/fstree"

	"golang.org/x/sync/errgroup"
)

// How a plan is carried out: so many bytes of records are asked for in one
// Fetch, two of which are under way at a time.
const (
	windowBytes = 4 << 20
	fetchers    = 2
)

// A chunkWant is a chunk that somebody waits for.
type chunkWant struct {
	id     fstree.ChunkID
	length uint32
	pos    uint8 // in its group
	group  uint32
	offset uint64 // for whoever waits
	file   *restoreFile
}

// A readPlan collects wanted chunks and reads them in the order in which they
// lie in the logs, so that each block is fetched and opened once and each
// group decoded once, whoever waits for what is in it.
type readPlan struct {
	a     *Archive
	x     *index
	wants []chunkWant

	// got is called with each chunk after it was checked, by several
	// goroutines, and bad with each that cannot be had. An error of got ends
	// everything.
	got func(w *chunkWant, chunk []byte) error
	bad func(w *chunkWant, err error)
}

// add adds a chunk; one that no index knows is bad at once.
func (p *readPlan) add(e fstree.Extent, offset uint64, file *restoreFile) {
	w := chunkWant{id: e.ID, length: uint32(e.Length), offset: offset, file: file}
	var ok bool
	if w.group, w.pos, ok = p.x.find(chunkPrefix(e.ID[:16])); !ok {
		p.bad(&w, fmt.Errorf("%w: a chunk is in no index", errDamaged))
		return
	}
	p.wants = append(p.wants, w)
}

// groupWants is one group of a plan and who waits for what is in it.
type groupWants struct {
	place place
	wants []chunkWant
}

// run reads everything that was added since the last run.
func (p *readPlan) run(ctx context.Context) error {
	wants := p.wants
	slices.SortFunc(wants, func(v, w chunkWant) int {
		return cmp.Or(cmp.Compare(v.group, w.group), cmp.Compare(v.pos, w.pos))
	})
	var groups []groupWants
	for i := 0; i < len(wants); {
		j := i
		for j < len(wants) && wants[j].group == wants[i].group {
			j++
		}
		groups = append(groups, groupWants{p.x.placeOf(wants[i].group), wants[i:j]})
		i = j
	}
	slices.SortFunc(groups, func(g, h groupWants) int {
		return cmp.Or(cmp.Compare(g.place.log, h.place.log),
			cmp.Compare(g.place.loc.block, h.place.loc.block), cmp.Compare(g.place.loc.off, h.place.loc.off))
	})
	err := p.read(ctx, groups)
	p.wants = p.wants[:0]
	return err
}

// loadedGroup is a group that was fetched.
type loadedGroup struct {
	groupWants
	contents []byte
}

func (p *readPlan) read(ctx context.Context, groups []groupWants) error {
	g, ctx := errgroup.WithContext(ctx)
	windows := make(chan []groupWants)
	loaded := make(chan loadedGroup, 2*p.a.workers)
	g.Go(func() error {
		defer close(windows)
		for len(groups) > 0 {
			n, size := 0, 0
			for n < len(groups) && groups[n].place.log == groups[0].place.log &&
				(n == 0 || size+int(groups[n].place.length) <= windowBytes) {
				size += int(groups[n].place.length)
				n++
			}
			select {
			case windows <- groups[:n]:
			case <-ctx.Done():
				return ctx.Err()
			}
			groups = groups[n:]
		}
		return nil
	})
	var fetching sync.WaitGroup
	for range fetchers {
		fetching.Add(1)
		g.Go(func() error {
			defer fetching.Done()
			for w := range windows {
				if err := p.fetch(ctx, w, loaded); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		fetching.Wait()
		close(loaded)
		return nil
	})
	for range p.a.workers {
		g.Go(func() error { return p.work(ctx, loaded) })
	}
	return g.Wait()
}

func (p *readPlan) fetch(ctx context.Context, window []groupWants, loaded chan<- loadedGroup) error {
	refs := make([]recordRef, len(window))
	for i, w := range window {
		refs[i] = recordRef{w.place.loc, w.place.length, typeGroup}
	}
	v := p.a.logs[window[0].place.log]
	missing, cause, err := p.a.readRecords(ctx, v, refs, func(i int, contents []byte) error {
		select {
		case loaded <- loadedGroup{window[i], contents}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err != nil {
		return err
	}
	for _, i := range missing {
		err := fmt.Errorf("%w: %w", errDamaged, lostError(v, refs[i].loc, cause))
		for k := range window[i].wants {
			p.bad(&window[i].wants[k], err)
		}
	}
	return nil
}

func (p *readPlan) work(ctx context.Context, loaded <-chan loadedGroup) error {
	dec, err := newDecoder()
	if err != nil {
		return err
	}
	defer dec.close()
	h := p.a.hash.hasher()
	for g := range loaded {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunks, err := dec.decode(g.contents)
		for i := range g.wants {
			w := &g.wants[i]
			if err != nil || int(w.pos) >= len(chunks) || len(chunks[w.pos]) != int(w.length) ||
				!(i > 0 && g.wants[i-1].id == w.id && g.wants[i-1].pos == w.pos && g.wants[i-1].length == w.length) &&
					h.chunkID(chunks[w.pos]) != w.id {
				p.bad(w, fmt.Errorf("%w: %w", errDamaged, lostError(p.a.logs[g.place.log], g.place.loc, errors.Join(errNotThere, err))))
				w.length = 0 // so that the next want of it is not taken for checked
				continue
			}
			if err := p.got(w, chunks[w.pos]); err != nil {
				return err
			}
		}
		p.a.records.put(g.contents) // and with it the chunks
	}
	return nil
}

var errNotThere = errors.New("a chunk is not what it was")
