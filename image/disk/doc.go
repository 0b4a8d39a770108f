// Package disk makes and reads the file systems of a box's disk on the computer
// where an image is built: the FAT32 of the boot selection and of the slots, the
// ext4 that the data partition begins as, and the whole disk around them. It
// also writes an image to a card.
//
// Start at [FAT32], [Data] and [Write] for an image, at [WriteBootsel] for the
// one file that is added to an image later, and at [Flash] for a card. Where
// everything lies is package layout's to say.
//
// What is made here depends on its arguments only: two runs give the same bytes.
package disk
