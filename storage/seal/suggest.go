package seal

import (
	"cmp"
	"slices"
	"strings"
)

const (
	maxSuggestions = 3
	maxSuggestable = 32 // bytes; the longest word has 8
)

// suggest returns the words of the list that someone who wrote got most likely
// meant, best first. Nearness is the number of slips (a letter left out, put
// in, changed, or swapped with its neighbour). The first four letters tell any
// two words of the list apart, and people shorten words to them, so a shared
// beginning of four counts as one slip at most, and between equally near words
// the longer shared beginning wins.
func suggest(got string, list []string) []string {
	if len(got) < 2 || len(got) > maxSuggestable {
		return nil
	}
	type candidate struct {
		word          string
		slips, shared int
	}
	most := 2
	if len(got) <= 3 {
		most = 1
	}
	var near []candidate
	for _, w := range list {
		c := candidate{word: w, shared: sharedPrefix(got, w), slips: most + 1}
		if d := len(got) - len(w); -most <= d && d <= most { // else there are more slips than that
			c.slips = slips(got, w)
		}
		if c.shared >= 4 || len(got) >= 3 && strings.HasPrefix(w, got) {
			c.slips = min(c.slips, 1)
		}
		if c.slips <= most {
			near = append(near, c)
		}
	}
	slices.SortStableFunc(near, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.slips, b.slips), cmp.Compare(b.shared, a.shared), cmp.Compare(a.word, b.word))
	})
	words := make([]string, 0, maxSuggestions)
	for _, c := range near[:min(len(near), maxSuggestions)] {
		words = append(words, c.word)
	}
	return words
}

func sharedPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// slips is the optimal string alignment distance: insertions, deletions,
// substitutions and swaps of neighbours, one each.
func slips(a, b string) int {
	// Three rows of the dynamic programme: the one before last, last, current.
	// Both words are short, see maxSuggestable.
	var rows [3][maxSuggestable + 1]int
	before, last, row := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(row[j-1]+1, last[j]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
