package slot

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"cobox/image/bundle"
	"cobox/image/fat32"
	"cobox/image/layout"
)

// clusterSize leaves more than the 65,525 clusters that make a file system FAT32.
const clusterSize = 2 * layout.SectorSize

// geometry is that of every slot. The data area starts at a multiple of 4 KiB.
var geometry = fat32.Geometry{
	Sectors:    layout.SlotSize / layout.SectorSize,
	PerCluster: clusterSize / layout.SectorSize,
	Reserved:   36,
	PerTable:   762,
}

// extent is a file and where its bytes lie, which is always in one piece.
type extent struct {
	file    bundle.File
	offset  int64
	content []byte // of the manifest and its signatures, else nil
}

// plan is every byte of a slot: the head, which is all that comes before the
// files, and the files.
type plan struct {
	head  []byte // sectors 0 to the end of the last directory
	files []extent
}

func newPlan(s layout.Slot, m *bundle.Manifest, sigs []bundle.Signature) (*plan, error) {
	text, err := m.Append(nil)
	if err != nil {
		return nil, err
	}
	p := new(plan)
	for _, f := range m.Files {
		p.files = append(p.files, extent{file: f})
	}
	p.add(layout.ManifestFile, text)
	if len(sigs) > 0 {
		p.add(layout.SignaturesFile, bundle.AppendSignatures(nil, sigs))
	}
	entries := make([]fat32.Entry, len(p.files))
	for i, e := range p.files {
		entries[i] = fat32.Entry{Path: e.file.Path, Size: e.file.Size}
	}

	sum := sha256.Sum256(text)
	partition, _ := new(layout.Table).Partition(s.Partition())
	v := &fat32.Volume{
		Geometry: geometry,
		Label:    s.Label(),
		Serial:   binary.LittleEndian.Uint32(sum[:]),
		Before:   uint32(partition.Start / layout.SectorSize),
		// The first that FAT knows: a slot has no time of its own.
		Made: time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	places, err := v.Plan(entries)
	if errors.Is(err, fat32.ErrNoRoom) {
		return nil, fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	if err != nil {
		return nil, fmt.Errorf("slot: %w", err)
	}
	p.head = places.Head
	for i := range p.files {
		p.files[i].offset = places.Offsets[i]
	}
	return p, nil
}

// add adds a file whose bytes are known.
func (p *plan) add(name string, content []byte) {
	p.files = append(p.files, extent{
		file:    bundle.File{Path: name, Size: int64(len(content)), SHA256: sha256.Sum256(content)},
		content: content,
	})
}
