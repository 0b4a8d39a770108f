package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	"cobox/image/disk"
	"cobox/image/fat32"
	"cobox/image/layout"
)

// mapBlock is the block of a block map.
const mapBlock = 4096

// span is some blocks of the image, the last one included.
type span struct{ first, last int64 }

// newBlockMap makes the block map of an image, version 2.0 as bmaptool reads it.
//
// Left out is only what may hold anything: the free clusters of the FAT32. What is
// zero in the image must be zero on the card, where something else was before, as
// the free entries of an allocation table or the inodes of ext4.
func newBlockMap(name string, c *disk.Contents) ([]byte, error) {
	table, err := layout.NewTable(layout.ImageSize)
	if err != nil {
		return nil, err
	}
	spans := []span{{0, 0}} // the partition table
	for i, b := range [][]byte{c.Bootsel, c.SlotA, c.SlotB} {
		p, _ := table.Partition(i + 1)
		used, err := fat32.Used(b)
		if err != nil {
			return nil, err
		}
		spans = append(spans, blocks(int64(p.Start), used))
	}
	spans = append(spans, blocks(int64(table.Data.Start), int64(table.Data.Size)))

	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var ranges strings.Builder
	mapped := int64(0)
	for _, s := range spans {
		h := sha256.New()
		n := (s.last - s.first + 1) * mapBlock
		if _, err := io.Copy(h, io.NewSectionReader(f, s.first*mapBlock, n)); err != nil {
			return nil, err
		}
		text := fmt.Sprintf("%d-%d", s.first, s.last)
		if s.first == s.last {
			text = fmt.Sprint(s.first)
		}
		fmt.Fprintf(&ranges, "        <Range chksum=\"%x\"> %s </Range>\n", h.Sum(nil), text)
		mapped += s.last - s.first + 1
	}
	const noSum = "0000000000000000000000000000000000000000000000000000000000000000"
	text := fmt.Sprintf(`<?xml version="1.0" ?>
<bmap version="2.0">
    <ImageSize> %d </ImageSize>
    <BlockSize> %d </BlockSize>
    <BlocksCount> %d </BlocksCount>
    <MappedBlocksCount> %d </MappedBlocksCount>
    <ChecksumType> sha256 </ChecksumType>
    <BmapFileChecksum> %s </BmapFileChecksum>
    <BlockMap>
%s    </BlockMap>
</bmap>
`, int64(layout.ImageSize), mapBlock, int64(layout.ImageSize/mapBlock), mapped, noSum, &ranges)
	// The file's own checksum is made with zeros in its place.
	sum := sha256.Sum256([]byte(text))
	return []byte(strings.Replace(text, noSum, hex.EncodeToString(sum[:]), 1)), nil
}

// blocks returns those that a part of the image lies in.
func blocks(start, size int64) span {
	return span{start / mapBlock, (start + size - 1) / mapBlock}
}
