// Command program stands in for the box's programs where only the image around
// them is tested.
package main

import "fmt"

// Set by the linker.
var version, built string

func main() { fmt.Println(version, built) }
