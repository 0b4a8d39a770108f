package seal_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/tyler-smith/go-bip39/wordlists"

	"cobox/storage/seal"
)

// bip39Vectors are all vectors of 128 bits that BIP-39 publishes.
var bip39Vectors = [][2]string{
	{"00000000000000000000000000000000", "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"},
	{"7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f", "legal winner thank year wave sausage worth useful legal winner thank yellow"},
	{"80808080808080808080808080808080", "letter advice cage absurd amount doctor acoustic avoid letter advice cage above"},
	{"ffffffffffffffffffffffffffffffff", "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong"},
	{"9e885d952ad362caeb4efe34a8e91bd2", "ozone drill grab fiber curtain grace pudding thank cruise elder eight picnic"},
	{"c0ba5a8e914111210f2bd131f3d5e08d", "scheme spot photo card baby mountain device kick cradle pact join borrow"},
	{"23db8160a31d3e0dca3688ed941adbf3", "cat swing flag economy stadium alone churn speed unique patch report train"},
	{"f30f8c1da665478f49b001d94c5fc452", "vessel ladder alter error federal sibling chat ability sun glass valve picture"},
}

func TestBIP39Vectors(t *testing.T) {
	for _, v := range bip39Vectors {
		e := seal.Entropy(must(hex.DecodeString(v[0])))
		if got := e.Phrase(); got != v[1] {
			t.Errorf("%s gives %q, want %q", v[0], got, v[1])
		}
		if got, err := seal.ParsePhrase(v[1]); err != nil || got != e {
			t.Errorf("%q: %v", v[1], err)
		}
	}
	// The word list itself, as BIP-39 publishes it.
	list := strings.Join(wordlists.English, "\n") + "\n"
	if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(list))); sum != "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda" {
		t.Error("the word list is not BIP-39's:", sum)
	}
}

func TestParsePhraseTolerates(t *testing.T) {
	want := seal.Entropy(must(hex.DecodeString(bip39Vectors[4][0])))
	words := strings.Fields(bip39Vectors[4][1])
	number := func(format string) string {
		var b strings.Builder
		for i, w := range words {
			fmt.Fprintf(&b, format, i+1, w)
		}
		return b.String()
	}
	for name, text := range map[string]string{
		"plain":            strings.Join(words, " "),
		"capitals":         strings.ToUpper(strings.Join(words, " ")),
		"one a line":       strings.Join(words, "\r\n") + "\r\n",
		"tabs and more":    "\t " + strings.Join(words, " \t\n ") + "  ",
		"hard spaces":      strings.Join(words, "\u00a0"),
		"byte order mark":  "\ufeff" + strings.Join(words, " "),
		"commas":           strings.Join(words, ", "),
		"commas, no space": strings.Join(words, ","),
		"quoted":           `"` + strings.Join(words, `", "`) + `"`,
		"full stop":        strings.Join(words, " ") + ".",
		"1. word":          number("%d. %s\n"),
		"1.word":           number("%d.%s "),
		"1) word":          number("%d) %s "),
		"(1) word":         number("(%d) %s "),
		"1: word":          number("%d:%s\n"),
		"1 word":           number("%d %s\n"),
		"#1 - word":        number("#%d - %s\n"),
	} {
		if got, err := seal.ParsePhrase(text); err != nil || got != want {
			t.Errorf("%s: %q: %v", name, text, err)
		}
	}
}

func TestParsePhraseErrors(t *testing.T) {
	good := bip39Vectors[4][1]
	words := strings.Fields(good)
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"empty":                                 {"", seal.ErrPhraseLength},
		"numbers only":                          {"1. 2. 3.", seal.ErrPhraseLength},
		"11 words":                              {strings.Join(words[1:], " "), seal.ErrPhraseLength},
		"13 words":                              {good + " zoo", seal.ErrPhraseLength},
		"24 words":                              {good + " " + good, seal.ErrPhraseLength},
		"a book":                                {strings.Repeat("lorem ipsum ", 10000), seal.ErrPhraseLength},
		"order changed":                         {strings.Join(slices.Concat(words[1:2], words[:1], words[2:]), " "), seal.ErrPhraseChecksum},
		"a word of the list, not the right one": {strings.Replace(good, "ozone", "zoo", 1), seal.ErrPhraseChecksum},
	} {
		if _, err := seal.ParsePhrase(c.text); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestMisspelt: the error says which word, and the first suggestion is the
// right one.
func TestMisspelt(t *testing.T) {
	words := strings.Fields(bip39Vectors[4][1])
	for _, c := range []struct {
		at         int
		got, right string
	}{
		{1, "ozon", "ozone"},           // letter left out
		{1, "ozoone", "ozone"},         // put in
		{2, "dril", "drill"},           // double letter
		{2, "drlil", "drill"},          // neighbours swapped
		{4, "fibre", "fiber"},          // British spelling
		{5, "curtian", "curtain"},      // neighbours swapped
		{6, "graec", "grace"},          // not "grab"
		{7, "puding", "pudding"},       //
		{7, "pudd", "pudding"},         // the four letters that tell it apart
		{8, "thnak", "thank"},          //
		{9, "cruize", "cruise"},        // as it sounds
		{10, "eldre", "elder"},         //
		{11, "eigth", "eight"},         //
		{12, "pincic", "picnic"},       //
		{12, "picnics", "picnic"},      // plural
		{12, "p1cnic", "picnic"},       // a digit for a letter
		{1, "0zone", "ozone"},          // at the beginning too, where numbers stand
		{12, "picnicbasket", "picnic"}, // more than enough
	} {
		w := slices.Clone(words)
		w[c.at-1] = c.got
		_, err := seal.ParsePhrase(strings.Join(w, " "))
		var bad *seal.PhraseError
		if !errors.As(err, &bad) {
			t.Errorf("%q: %v", c.got, err)
			continue
		}
		if bad.Word != c.at || bad.Got != c.got || len(bad.Suggestions) == 0 || bad.Suggestions[0] != c.right || len(bad.Suggestions) > 3 {
			t.Errorf("%q: word %d, suggestions %v, want word %d, %s first", c.got, bad.Word, bad.Suggestions, c.at, c.right)
		}
		if msg := err.Error(); !strings.Contains(msg, c.right) || !strings.Contains(msg, fmt.Sprint("word ", c.at)) {
			t.Error("message does not help:", msg)
		}
		if v := bad.LogValue().String(); strings.Contains(v, c.got) || strings.Contains(v, c.right) {
			t.Error("the word would be logged:", v)
		}
	}
	var bad *seal.PhraseError
	if _, err := seal.ParsePhrase("ozone x" + strings.Repeat("q", 100000)); !errors.As(err, &bad) || len(bad.Suggestions) != 0 {
		t.Error("nonsense:", bad.Suggestions)
	}
	if len(bad.Error()) > 300 {
		t.Error("the message repeats all of the nonsense")
	}
	var _ slog.LogValuer = bad
}

// TestMisspeltEveryWord makes one slip in every word of the list; unless the
// result is another word, the right one must be suggested.
func TestMisspeltEveryWord(t *testing.T) {
	step := 11
	if testing.Short() {
		step = 97
	}
	missed, first, total := 0, 0, 0
	for i := 0; i < len(wordlists.English); i += step {
		word := wordlists.English[i]
		at := 1 + i%(len(word)-1)
		for _, slip := range []string{
			word[:at] + word[at+1:],
			word[:at] + string(word[at]) + word[at:],
			word[:at-1] + string(word[at]) + string(word[at-1]) + word[at+1:],
			word[:at] + "q" + word[at+1:],
		} {
			if slices.Contains(wordlists.English, slip) {
				continue
			}
			var bad *seal.PhraseError
			if _, err := seal.ParsePhrase(slip); !errors.As(err, &bad) {
				t.Fatalf("%q: %v", slip, err)
			}
			total++
			if !slices.Contains(bad.Suggestions, word) {
				missed++
			} else if bad.Suggestions[0] == word {
				first++
			}
		}
	}
	t.Logf("%d slips: right word first %d times, not among three %d times", total, first, missed)
	if missed*100 > total*2 || first*100 < total*85 {
		t.Errorf("of %d slips the right word came first %d times and was missed %d times", total, first, missed)
	}
}
