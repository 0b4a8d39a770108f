package admin

import (
	"bytes"
	"encoding/json"
	"testing"

	"cobox/storage/account"
)

func TestDecodeIsStrict(t *testing.T) {
	var req QuotaRequest
	id := account.ID{1}
	good, err := json.Marshal(QuotaRequest{Account: id, Quota: Quota{Bytes: 1 << 63}})
	if err != nil {
		t.Fatal(err)
	}
	if err := Decode(good, &req); err != nil || req.Account != id || req.Quota.Bytes != 1<<63 {
		t.Errorf("%+v %v", req, err)
	}
	if err := Decode(nil, &StatusRequest{}); err != nil {
		t.Errorf("no body: %v", err)
	}
	for _, bad := range []string{`{"qouta":{}}`, `{}{}`, `[]`, `{"account":"acct:1"}`, `{"quota":{"bytes":-1}}`, `{`, ` `} {
		if err := Decode([]byte(bad), &QuotaRequest{}); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func event() *Event {
	device := account.DeviceKey{2}
	return &Event{V: 1, Number: 7, Elapsed: 1000, Wall: 1_700_000_000, Kind: EventJoined,
		Account: &account.ID{1}, Device: &device, Detail: "bäckerei <x>", Count: 3}
}

func TestEventKnownAnswer(t *testing.T) {
	const want = `{"v":1,"number":7,"elapsed":1000,"wall":1700000000,"kind":"joined",` +
		`"account":"acct:0100000000000000000000000000000000000000000000000000000000000000",` +
		`"device":"device:0200000000000000000000000000000000000000000000000000000000000000",` +
		`"detail":"bäckerei \u003cx\u003e","count":3}`
	b := AppendEvent(nil, event())
	if string(b) != want {
		t.Errorf("got %s", b)
	}
	if e, err := ParseEvent(b); err != nil || e.Number != 7 || *e.Account != (account.ID{1}) {
		t.Errorf("%+v %v", e, err)
	}
	if _, err := ParseEvent(bytes.Replace(b, []byte(`"v":1`), []byte(`"v":2`), 1)); err == nil {
		t.Error("another version was accepted")
	}
}

func FuzzParseEvent(f *testing.F) {
	f.Add(AppendEvent(nil, event()))
	f.Add([]byte(`{"v":1,"number":0,"elapsed":0,"wall":0,"kind":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := ParseEvent(b); err == nil && !bytes.Equal(AppendEvent(nil, e), b) {
			t.Error("not canonical")
		}
	})
}
