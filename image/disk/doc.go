// Package disk makes the disk of a box as a file on the computer where an image
// is built, with the ext4 that the data partition begins as, and writes it to a
// card.
//
// Start at [Data] and [Write] for an image, at [WriteBootsel] for the
// one file that is added to an image later, and at [Flash] for a card. Where
// everything lies is package layout's to say.
//
// What is made here depends on its arguments only: two runs give the same bytes.
package disk
