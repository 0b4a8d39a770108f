// Package imagetest makes variants of the system in an image for tests that boot
// it, with other release keys, another number or a program that breaks, and
// looks for what must not be in an image.
//
// disk.ReadSlot takes the system out of an image. [Variant.Of] changes it and
// signs it with the test keys of package bundletest; [Bundle] makes an update of
// it, and [Install] puts it into a slot of an image. [Audit] is the look.
//
// It imports nothing of the testing package, so that programs that drive a box
// can use it too.
package imagetest
