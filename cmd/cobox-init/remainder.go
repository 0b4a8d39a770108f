//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cobox/appliance/datadir"
	"cobox/image/layout"
)

// keepRemainder keeps on the card what the box needs to say who it is when the
// disk is missing, until ctx ends; and, once coboxd has been well on the disk for
// long enough, removes what is left of the data there.
func (s *system) keepRemainder(ctx context.Context) {
	disk, card := filepath.Join(diskMount, dataName), filepath.Join(cardMount, dataName)
	copied := map[string]fileStamp{}
	tidy := tidying{after: s.tidyAfter, sound: func() error {
		id, named, err := readDataDisk(cardMount)
		if err == nil && !named {
			err = errors.New("the card does not name the disk any more")
		}
		if err != nil {
			return err
		}
		_, device, _ := s.data.where()
		return soundDisk("/dev/"+device, diskMount, id)
	}}
	told := ""
	if id, named, err := readDataDisk(cardMount); err == nil && named {
		if err := renewMark(card, id); err != nil {
			s.log.Error("the card's mark names the disk before", "error", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(healthEvery):
		}
		now, f := time.Now(), s.state.facts()
		due, err := tidy.due(now, f)
		if f.answering(now) {
			// The card gets what it keeps before it loses anything.
			err = errors.Join(copyRemainder(disk, card, copied), err)
		}
		if due && err == nil {
			var id layout.DataDiskID
			if id, _, err = readDataDisk(cardMount); err == nil {
				err = tidyCard(ctx, card, id)
			}
			if tidy.done = err == nil; tidy.done {
				s.log.Info("the card has none of the data any more")
			}
		}
		if err != nil && ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			s.log.Error("the card does not have what the box needs without its disk", "error", err)
		}
	}
}

// fileStamp tells whether a file was written since.
type fileStamp struct {
	size int64
	time time.Time
}

// remainder are the files that stay on the card, with the most that each may have.
var remainder = map[string]int64{datadir.IdentityFile: maxProvision, datadir.PeersFile: 16 << 20}

// copyRemainder copies the files that have changed. They are coboxd's, and nothing
// is taken that is not what it should be.
func copyRemainder(disk, card string, copied map[string]fileStamp) error {
	for name, limit := range remainder {
		info, err := os.Lstat(filepath.Join(disk, name))
		if err != nil {
			return fmt.Errorf("data: %w", err)
		}
		stamp := fileStamp{info.Size(), info.ModTime()}
		if copied[name] == stamp {
			continue
		}
		b, err := datadir.ReadFile(filepath.Join(disk, name), limit)
		if err != nil {
			return fmt.Errorf("data: %w", err)
		}
		if name == datadir.IdentityFile {
			var id *datadir.Identity
			id, err = datadir.ParseIdentity(b)
			if err == nil {
				var same bool
				if same, err = sameIdentity(card, id); same {
					copied[name] = stamp
					continue
				}
			}
		} else {
			_, err = datadir.ParsePeers(b)
		}
		if err != nil {
			return err
		}
		if have, err := datadir.ReadFile(filepath.Join(card, name), limit); err != nil || !bytes.Equal(have, b) {
			if err := writeDurably(filepath.Join(card, name), b, 0o600, daemonUID); err != nil {
				return fmt.Errorf("data: keeping %s on the card: %w", name, err)
			}
		}
		copied[name] = stamp
	}
	return nil
}

// sameIdentity tells whether the card has the identity. Another one is an error: it
// says which box this is, and coboxd, who can change what the disk says, may not
// change that.
func sameIdentity(card string, id *datadir.Identity) (bool, error) {
	have := readIdentity(card)
	switch {
	case have != nil && *have == *id:
		// It may be a provisioned one only, which is not what the card keeps.
		_, err := os.Lstat(filepath.Join(card, datadir.IdentityFile))
		return err == nil, nil
	case have != nil:
		return false, errors.New("data: the disk says that this is another box than the card says; the card keeps its identity")
	}
	return false, nil // there is none, or a damaged one, which is made good
}
