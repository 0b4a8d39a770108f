package image

import (
	"encoding/json"
	"path/filepath"
	"strings"
)

// imagerDevices are the names by which Raspberry Pi Imager knows the models: the
// Zero 2 W is among the 3s.
var imagerDevices = []string{"pi3-64bit", "pi4-64bit", "pi5-64bit"}

// newImagerList makes a list of one image for Raspberry Pi Imager's custom
// repository. Imager is told not to offer its own settings: there is no user, no
// password and no Wi-Fi to set.
func newImagerList(c Config, r *Result) ([]byte, error) {
	type entry struct {
		Name          string   `json:"name"`
		Description   string   `json:"description"`
		URL           string   `json:"url"`
		ExtractSize   int64    `json:"extract_size"`
		ExtractSHA256 string   `json:"extract_sha256"`
		Size          int64    `json:"image_download_size"`
		SHA256        string   `json:"image_download_sha256"`
		Released      string   `json:"release_date"`
		InitFormat    string   `json:"init_format"`
		Devices       []string `json:"devices"`
	}
	url := filepath.Base(r.Packed.Path)
	if c.URL != "" {
		url = strings.TrimSuffix(c.URL, "/") + "/" + url
	}
	list := struct {
		List []entry `json:"os_list"`
	}{[]entry{{
		Name:          "CoBox " + c.Version,
		Description:   "A backup box for co-operatives: encrypted copies of your data at people you know",
		URL:           url,
		ExtractSize:   r.Image.Size,
		ExtractSHA256: r.Image.SHA256,
		Size:          r.Packed.Size,
		SHA256:        r.Packed.SHA256,
		Released:      c.Time.Format("2006-01-02"),
		InitFormat:    "none",
		Devices:       imagerDevices,
	}}}
	b, err := json.MarshalIndent(list, "", "  ")
	return append(b, '\n'), err
}
