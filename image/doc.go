// Package image is the map of what makes a box's disk, and builds the image
// that is written to it.
//
//	image/layout    where everything lies on the disk, and which slot starts
package image
