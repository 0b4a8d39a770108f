package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// json [TYPE [FIELD=VALUE | FIELD<=N | FIELD>=N]...]: the last output must be
// lines of JSON, each with type and v, and end with the one summary or error.
// With a type, some line must have it and agree with all that follows. FIELD
// may be a.b, or a.0.b in a list; a.len is the length of a list.
func jsonCmd(ts *testscript.TestScript, neg bool, args []string) {
	var lines []map[string]any
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		var v map[string]any
		d := json.NewDecoder(strings.NewReader(line))
		d.UseNumber()
		if err := d.Decode(&v); err != nil || d.More() {
			ts.Fatalf("not a line of JSON: %s (%v)", line, err)
		}
		if _, ok := v["type"].(string); !ok || fmt.Sprint(v["v"]) != "1" {
			ts.Fatalf("a line without type or version: %s", line)
		}
		if !strings.HasPrefix(line, `{"type":"`) || strings.Contains(line, ":null") {
			ts.Fatalf("a line that begins with something else than type, or has null in it: %s", line)
		}
		lines = append(lines, v)
	}
	for i, v := range lines {
		if ends := v["type"] == "summary" || v["type"] == "error"; ends != (i == len(lines)-1) {
			ts.Fatalf("line %d of %d is a %v", i+1, len(lines), v["type"])
		}
	}
	if len(lines) == 0 {
		ts.Fatalf("there is no output")
	}
	if len(args) == 0 {
		return
	}
	found := false
	why := "there is none"
	for _, v := range lines {
		if v["type"] != args[0] {
			continue
		}
		if bad := disagrees(v, args[1:]); bad != "" {
			why = bad
		} else {
			found = true
		}
	}
	if found == neg {
		ts.Fatalf("json %s: %s", strings.Join(args, " "), why)
	}
}

func disagrees(v map[string]any, wants []string) string {
	for _, want := range wants {
		at := strings.IndexAny(want, "<>=")
		if at < 0 {
			return "no comparison in " + want
		}
		field, rest := want[:at], want[at:]
		got := field + " is not there"
		if x, ok := lookUp(v, field); ok {
			got = fmt.Sprint(x)
		}
		op, value := "=", strings.TrimPrefix(rest, "=")
		if strings.HasPrefix(rest, "<=") || strings.HasPrefix(rest, ">=") {
			op, value = rest[:2], rest[2:]
		}
		ok := got == value
		if op != "=" {
			a, err1 := strconv.ParseFloat(got, 64)
			b, err2 := strconv.ParseFloat(value, 64)
			ok = err1 == nil && err2 == nil && (op == "<=" && a <= b || op == ">=" && a >= b)
		}
		if !ok {
			return fmt.Sprintf("%s: got %s", want, got)
		}
	}
	return ""
}

func lookUp(v any, field string) (any, bool) {
	for part := range strings.SplitSeq(field, ".") {
		switch x := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = x[part]; !ok {
				return nil, false
			}
		case []any:
			if part == "len" {
				v = len(x)
				continue
			}
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(x) {
				return nil, false
			}
			v = x[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// capture VARIABLE TYPE FIELD: sets the variable to a field of the last line of
// JSON of that type.
func captureCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: capture VARIABLE TYPE FIELD")
	}
	value, ok := any(nil), false
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		var v map[string]any
		ts.Check(json.Unmarshal([]byte(line), &v))
		if v["type"] == args[1] {
			value, ok = lookUp(v, args[2])
		}
	}
	if !ok {
		ts.Fatalf("no %s has %s", args[1], args[2])
	}
	ts.Setenv(args[0], fmt.Sprint(value))
}
