package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cobox/appliance/admin"
	"cobox/cmd/cobox/ui"
	"cobox/storage/account"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample is one event with every field filled in. Its name is the heading of
// its section in docs/JSON.md and, with dashes, the name of its golden file.
type sample struct {
	name  string
	event ui.Event
}

// samples has one of every event that the program can write.
func samples() []sample {
	at := ui.Time{Time: time.Date(2026, 5, 1, 14, 30, 15, 123456789, time.FixedZone("", 2*3600))}
	acct, device := account.ID{1, 2, 3}, account.DeviceKey{4, 5, 6}
	key := strings.Repeat("0123456789abcdef", 4)
	other := strings.Repeat("fedcba9876543210", 4)
	notUTF8 := ui.NameOf("/home/ana/caf\xe9")
	limit := admin.Quota{Unlimited: true, Bytes: 500_000_000_000} // both, to see both
	you := admin.You{Administrator: true, Quota: limit, Used: 7}
	return []sample{
		{"progress", ui.Progress{Operation: "Backing up", Files: 1, Bytes: 2, TotalFiles: 3, TotalBytes: 4, Final: true, Errors: 5, Rate: 6, Left: 7, Current: "x"}},
		{"warning", ui.Warning{Message: "box \"shelf\" does not hold this backup: no answer"}},
		{"file_error", fileEvent{notUTF8, "read", "permission denied"}},
		{"error", ui.ErrorEvent(&ui.Failure{Exit: 1, Code: "not_set_up", What: "this device has not been set up", Hint: "Run 'cobox init'."})},
		{"summary of init", initEvent{acct, acct.Fingerprint(), "laptop", "/media/usb/phrase.txt", "/home/ana/.config/cobox/recovery-sheet.html"}},
		{"summary of pair and join", pairEvent{key, "shelf", true, limit, []string{"192.168.1.20:26269"}, "/home/ana/.config/cobox/recovery-sheet.html"}},
		{"summary of sheet", sheetEvent{"sheet.html", "sheet.png", 2}},
		{"summary of recover", recoverEvent{acct, acct.Fingerprint(), "laptop", []string{"default"}, 2, 1, []namedBox{{key, "shelf"}}, "sheet.html"}},
		{"summary of forget", forgetEvent{key, "shelf", 1, "sheet.html"}},
		{"box", boxEvent{key, "shelf", []string{"192.168.1.20:26269"}, true, at, true, "no answer", "its disk is away", &you}},
		{"summary of boxes", boxesSummary{2, 1}},
		{"replica", logStatus{key, "shelf", "default", other, 10, 12, 655360, 1, true, &at}},
		{"space", spaceStatus{"default", 1, 2, 131072}},
		{"summary of status", statusSummary{acct.String(), acct.Fingerprint(), "laptop", 2, 1, 131072}},
		{"summary of backup", backupSummary{key, "default", true, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1.5, []backupBox{{key, "shelf", 10, other}}}},
		{"snapshot", snapshotEvent{key[:32], at, "laptop", "ana", []ui.Name{ui.NameOf("/home/ana"), notUTF8}, []string{"weekly"}, 1, 2, 3, 4, 5}},
		{"summary of snapshots", snapshotsSummary{"default", 3}},
		{"entry", entryEvent{notUTF8, "symlink", "0777", 1000, 100, "ana", "users", 5, at, &notUTF8, "for people"}},
		{"summary of ls", lsSummary{key, 2, 3}},
		{"summary of restore", restoreSummary{key, "default", &notUTF8, true, 1, 2, 3, 4, 5, 6, 7, 8, 1.5}},
		{"verified", verifyEvent{key, "shelf", "default", other, true, 1, 2, 3, 4, true, "the box lacks 4 blocks"}},
		{"summary of verify", verifySummary{1, 2, 3, 4, true, 1.5}},
		{"summary of box status", boxStatusEvent{key, "shelf", "v1.0", []string{"192.168.1.20:26269"}, at, 1, true, you, &stateOfBox{1, 2, 3, 4, 5, 6, 7, 8, true},
			&dataOfBox{"1a2b3c4d", "it is not plugged in"}, &admin.Move{Disk: "1a2b3c4d", CopyProgress: admin.CopyProgress{Step: "copying", Done: 1, Total: 2}, Failed: "it was pulled out"}, "its disk is away",
			&systemOfBox{"1.4.0", 17, "b", true, "rpi-arm64", 15}, &updateOfBox{"1.4.0", 17, "fellback", "no address"}}},
		{"disk", diskEvent{"1a2b3c4d", "Acme Disk", 1, admin.HoldsForeign, "a file system ext4 named \"PHOTOS\"", true, "it is not blank", "sda"}},
		{"summary of box disk list", disksSummary{key, "shelf", 1, 2}},
		{"summary of box disk use", diskUsedEvent{key, "shelf", "1a2b3c4d", 1.5}},
		{"member", memberEvent{acct, acct.Fingerprint(), "Ana", true, true, limit, 1, 2, at, []memberDevice{{device, "laptop", at, &at, true, true}}}},
		{"invite", openInviteEvent{"0123456789abcdef", "Ana", limit, "open", at, 3600, &device}},
		{"summary of box members and box log", countSummary{key, "shelf", 3}},
		{"summary of box invite member", inviteEvent{key, "shelf", "0123456789abcdef", "http://cobox-ab3d.local/#AQ", limit, 604800, "invite.png", "for people"}},
		{"summary of box quota and box remove", doneEvent{key, "shelf", acct, &limit, "for people"}},
		{"summary of box check", checkEvent{key, "shelf", 1, 2, 3, []admin.Damaged{{Log: other, Index: 4, What: "block", Error: "is not what was stored"}}, 5, 6, 1.5}},
		{"update", updateEvent{key, "shelf", "1.4.0", 17, updateTrying}},
		{"summary of box update", updateSummary{key, "shelf", "1.4.0", 17, updatePromoted, 1.5}},
		{"event", logEvent{1, at, 2, admin.EventJoined, &acct, &device, &acct, other, "laptop", 3}},
		{"summary of version", versionEvent{"v1.0", "go1.26", "linux", "arm64"}},
		{"summary of help", helpEvent{"cobox backup", "Usage: <x>\n"}},
	}
}

// The encoding of every event is a contract with scripts.
func TestEventsKnownAnswer(t *testing.T) {
	files := map[string]bool{}
	for _, s := range samples() {
		path := filepath.Join("testdata", "json", strings.ReplaceAll(s.name, " ", "-")+".golden")
		files[path] = true
		got := ui.Encode(s.event)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s has changed\n got %s\nwant %s", s.name, got, want)
		}
	}
	there, err := filepath.Glob(filepath.Join("testdata", "json", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range there {
		if !files[path] {
			t.Errorf("%s belongs to no event", path)
		}
	}
}

// A sample with a field left out would let that field change unseen.
func TestSamplesAreFull(t *testing.T) {
	for _, s := range samples() {
		for _, field := range emptyFields(reflect.ValueOf(s.event), "") {
			if s.name == "progress" && field == ".Current" {
				continue // not in JSON
			}
			t.Errorf("the sample of %q has nothing in %s", s.name, field)
		}
	}
}

func emptyFields(v reflect.Value, path string) (list []string) {
	switch {
	case v.Type() == reflect.TypeFor[ui.Time]():
		return nil
	case v.IsZero():
		return []string{path}
	}
	switch v.Kind() {
	case reflect.Pointer:
		return emptyFields(v.Elem(), path)
	case reflect.Struct:
		for i := range v.NumField() {
			list = append(list, emptyFields(v.Field(i), path+"."+v.Type().Field(i).Name)...)
		}
	case reflect.Slice:
		if v.Len() == 0 {
			return []string{path}
		}
		return emptyFields(v.Index(v.Len()-1), path+"[]")
	}
	return list
}

// Every type with a method Type() that gives a name must have a sample.
func TestEveryEventHasASample(t *testing.T) {
	sampled := map[string]bool{}
	for _, s := range samples() {
		sampled[reflect.TypeOf(s.event).Name()] = true
	}
	for _, dir := range []string{".", "ui"} {
		for _, name := range eventTypes(t, dir) {
			if !sampled[name] {
				t.Errorf("event %s of %s has no sample here", name, dir)
			}
		}
	}
}

func eventTypes(t *testing.T, dir string) (names []string) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv == nil || fn.Name.Name != "Type" {
				continue
			}
			if id, ok := fn.Recv.List[0].Type.(*ast.Ident); ok {
				names = append(names, id.Name)
			}
		}
	}
	if len(names) == 0 {
		t.Fatalf("no events found in %s", dir)
	}
	return names
}

// docs/JSON.md has a section for every event, with a row for every field that
// says rightly whether the field is always there, and no row for another.
func TestEventsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "JSON.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]map[string]string{} // heading, field, always
	var rows map[string]string
	heading := regexp.MustCompile("^### (.*)$")
	row := regexp.MustCompile("^\\| `([^`]*)` \\| (yes|no) \\|")
	for line := range strings.Lines(string(doc)) {
		line = strings.TrimSuffix(line, "\n")
		if m := heading.FindStringSubmatch(line); m != nil {
			rows = map[string]string{}
			sections[strings.ReplaceAll(m[1], "`", "")] = rows
		} else if m := row.FindStringSubmatch(line); m != nil {
			rows[m[1]] = m[2]
		}
	}
	for _, s := range samples() {
		rows, ok := sections[s.name]
		if !ok {
			t.Errorf("docs/JSON.md has no section %q", s.name)
			continue
		}
		delete(sections, s.name)
		full, least, inside := fields(t, s.event), fields(t, emptied(s.event, false)), fields(t, emptied(s.event, true))
		for _, f := range full {
			// In an object that is not always there, what it always has.
			parent := strings.TrimSuffix(f[:max(0, strings.LastIndexByte(f, '.'))], "[]")
			optional := parent != "" && !slices.Contains(least, parent)
			always := "no"
			if slices.Contains(least, f) || optional && slices.Contains(inside, f) {
				always = "yes"
			}
			if rows[f] == "" {
				t.Errorf("docs/JSON.md, %s: no row for %s", s.name, f)
			} else if rows[f] != always {
				t.Errorf("docs/JSON.md, %s: whether %s is always there is %q, want %q", s.name, f, rows[f], always)
			}
			delete(rows, f)
		}
		for f := range rows {
			t.Errorf("docs/JSON.md, %s: there is no field %s", s.name, f)
		}
	}
	for name := range sections {
		t.Errorf("docs/JSON.md describes %q, which does not exist", name)
	}
}

// emptied returns an event with nothing in it but one emptied element in each
// list of objects, and, if wanted, emptied objects where there may be none.
func emptied(e ui.Event, objects bool) ui.Event {
	v := reflect.New(reflect.TypeOf(e)).Elem()
	v.Set(reflect.ValueOf(e))
	empty(v, objects)
	return v.Interface().(ui.Event)
}

func empty(v reflect.Value, objects bool) {
	if v.Type() == reflect.TypeFor[ui.Time]() || !v.CanSet() {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			empty(v.Field(i), objects)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Struct {
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
			return
		}
		last := reflect.New(v.Type().Elem()).Elem()
		last.Set(v.Index(v.Len() - 1))
		empty(last, objects)
		list := reflect.MakeSlice(v.Type(), 1, 1)
		list.Index(0).Set(last)
		v.Set(list)
	case reflect.Pointer:
		if !objects {
			v.SetZero()
			return
		}
		object := reflect.New(v.Type().Elem())
		object.Elem().Set(v.Elem())
		empty(object.Elem(), objects)
		v.Set(object)
	default:
		v.SetZero()
	}
}

// fields lists the fields of an event: a, a.b in objects, a[].b in lists.
func fields(t *testing.T, e ui.Event) (list []string) {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal(ui.Encode(e), &object); err != nil {
		t.Fatal(err)
	}
	delete(object, "type")
	delete(object, "v")
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, x := range v {
				path := strings.TrimPrefix(prefix+"."+name, ".")
				list = append(list, path)
				walk(path, x)
			}
		case []any:
			for _, x := range v {
				walk(prefix+"[]", x)
			}
		}
	}
	walk("", object)
	slices.Sort(list)
	return slices.Compact(list)
}

// The document lists every exit code and every code of an error.
func TestErrorCodesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "JSON.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range errorCodes(t) {
		if !bytes.Contains(doc, fmt.Appendf(nil, "| `%s` |", code)) {
			t.Errorf("docs/JSON.md has no row for the error code %s", code)
		}
	}
}

// errorCodes finds the codes in the source: the Code of every Failure, and the
// arguments that become one.
func errorCodes(t *testing.T) (codes []string) {
	patterns := []*regexp.Regexp{
		regexp.MustCompile(`Code: "([a-z_]+)"`),
		regexp.MustCompile(`\.Code(?:, [a-z.]+[A-Z][a-z]+)* = (?:ui\.Exit[A-Za-z]+, )?"([a-z_]+)"`),
		regexp.MustCompile(`(?:fail|told)\("([a-z_]+)",`),
		regexp.MustCompile(`ui\.Fail\([a-z]+, "([a-z_]+)",`),
	}
	for _, dir := range []string{".", "ui"} {
		paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			src, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range patterns {
				for _, m := range p.FindAllSubmatch(src, -1) {
					codes = append(codes, string(m[1]))
				}
			}
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}
