package fstree

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Patterns are rules for leaving entries out, written as in a .gitignore file:
// one a line; "#" begins a comment, "!" a rule that takes back what an earlier
// one left out; the last rule that matches decides; "*", "?" and "[…]" do not
// match "/", "**" as a whole component matches any number of directories; a
// rule that ends in "/" is for directories only; one with a "/" at its start
// or within is tried against the whole path, any other against the name alone.
//
// Paths are relative to the root that is backed up. So that a path can be
// given as it is typed, a rule with a "/" is tried against the absolute path
// too, unless it would then match the root itself or what lies above it.
//
// A nil *Patterns leaves nothing out.
type Patterns struct {
	rules []rule
}

type rule struct {
	glob    string
	negate  bool
	dirOnly bool
	path    bool // matched against the path, not the name
	literal bool // no metacharacters: compare
}

// ParsePatterns parses one rule from each line; empty lines and comments are
// none.
func ParsePatterns(lines []string) (*Patterns, error) {
	p := new(Patterns)
	for _, line := range lines {
		r, ok, err := parseRule(line)
		if err != nil {
			return nil, err
		}
		if ok {
			p.rules = append(p.rules, r)
		}
	}
	return p, nil
}

// ReadPatterns parses the lines of a file, which may begin with a byte order
// mark and end its lines with CR LF.
func ReadPatterns(r io.Reader) (*Patterns, error) {
	var lines []string
	s := bufio.NewScanner(r)
	for s.Scan() {
		line := s.Text()
		if len(lines) == 0 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		lines = append(lines, line)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("fstree: reading patterns: %w", err)
	}
	return ParsePatterns(lines)
}

// Append returns the rules of p followed by those of q.
func (p *Patterns) Append(q *Patterns) *Patterns {
	r := new(Patterns)
	for _, x := range []*Patterns{p, q} {
		if x != nil {
			r.rules = append(r.rules, x.rules...)
		}
	}
	return r
}

// Empty reports whether there are no rules.
func (p *Patterns) Empty() bool { return p == nil || len(p.rules) == 0 }

// Excluded reports whether the rules leave out the entry at path, relative and
// with "/" between its components, or a directory above it: what lies below
// an excluded directory cannot be taken back.
func (p *Patterns) Excluded(path string, dir bool) bool {
	if p.Empty() {
		return false
	}
	m := matcher{rules: p.rules}
	for i := 0; i < len(path); i++ {
		if path[i] == '/' && m.match(path[:i], "", true) {
			return true
		}
	}
	return m.match(path, "", dir)
}

func parseRule(line string) (r rule, ok bool, err error) {
	s := strings.TrimSuffix(line, "\r")
	if strings.HasPrefix(s, "#") {
		return r, false, nil
	}
	s = trimSpaces(s)
	if rest, found := strings.CutPrefix(s, "!"); found {
		r.negate, s = true, rest
	}
	if rest, found := strings.CutSuffix(s, "/"); found {
		r.dirOnly, s = true, rest
	}
	r.path = strings.Contains(s, "/")
	s = strings.TrimPrefix(s, "/")
	if s == "" {
		if r.negate || r.dirOnly || r.path {
			return r, false, fmt.Errorf("fstree: pattern %q matches nothing", line)
		}
		return r, false, nil
	}
	// "a/**" is everything in a, but not a itself.
	if strings.HasSuffix(s, "/**") {
		s += "/*"
	}
	r.glob = escapeBraces(s)
	r.literal = !strings.ContainsAny(r.glob, `*?[]{}\`)
	if !doublestar.ValidatePattern(r.glob) {
		return r, false, fmt.Errorf("fstree: pattern %q is malformed", line)
	}
	return r, true, nil
}

// trimSpaces removes trailing spaces unless the first is escaped.
func trimSpaces(s string) string {
	t := strings.TrimRight(s, " ")
	if len(t) < len(s) && strings.HasSuffix(t, `\`) && !strings.HasSuffix(t, `\\`) {
		return t + " "
	}
	return t
}

// escapeBraces makes braces literal: they are no part of these rules, but
// alternatives to the glob library.
func escapeBraces(s string) string {
	if !strings.ContainsAny(s, "{}") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			b.WriteByte(s[i])
			if i++; i == len(s) {
				continue
			}
		case '{', '}':
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// A matcher applies rules below one root.
type matcher struct {
	rules []rule
	noAbs []bool // rules not to be tried against the absolute path; nil: none may
}

// forRoot returns the matcher for what lies below the root at the absolute
// path abs, given without a leading slash.
func (p *Patterns) forRoot(abs string) *matcher {
	if p.Empty() {
		return nil
	}
	m := &matcher{rules: p.rules, noAbs: make([]bool, len(p.rules))}
	for i := range p.rules {
		r := &p.rules[i]
		m.noAbs[i] = !r.path || slices.ContainsFunc(prefixes(abs), func(s string) bool {
			return r.matches(s)
		})
	}
	return m
}

// prefixes returns path and the paths of all directories above it.
func prefixes(path string) []string {
	if path == "" {
		return nil
	}
	var all []string
	for i := range path {
		if path[i] == '/' {
			all = append(all, path[:i])
		}
	}
	return append(all, path)
}

// match decides for one entry whose parents are not excluded. abs is its
// absolute path without the leading slash, empty if unknown.
func (m *matcher) match(rel, abs string, dir bool) bool {
	for i := len(m.rules) - 1; i >= 0; i-- {
		r := &m.rules[i]
		if r.dirOnly && !dir {
			continue
		}
		if r.matches(rel) || abs != "" && !m.noAbs[i] && r.matches(abs) {
			return !r.negate
		}
	}
	return false
}

func (r *rule) matches(path string) bool {
	if !r.path {
		path = path[strings.LastIndexByte(path, '/')+1:]
	}
	if r.literal {
		return path == r.glob
	}
	ok, err := doublestar.Match(r.glob, path)
	return ok && err == nil
}
