package image

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
)

// newBill lists what the image consists of, as CycloneDX 1.6 in JSON: every
// module in a program, the version of Go, the kernel and the firmware. It has no
// serial number, which would be another each time.
func newBill(c Config, s *System) ([]byte, error) {
	type part struct {
		kind                 cyclonedx.ComponentType
		path, version, sum   string
		licence, description string
	}
	parts := map[string]part{}
	add := func(p part) { parts[p.path+"@"+p.version] = p }
	for _, p := range s.Programs {
		add(part{kind: cyclonedx.ComponentTypeLibrary, path: "std", version: strings.TrimPrefix(p.Info.GoVersion, "go"), licence: "BSD-3-Clause"})
		for _, d := range p.Info.Deps {
			if d.Replace != nil {
				d = d.Replace
			}
			add(part{kind: cyclonedx.ComponentTypeLibrary, path: d.Path, version: d.Version, sum: d.Sum})
		}
	}
	add(part{kind: cyclonedx.ComponentTypeOS, path: s.Modules[0].Path, version: s.Modules[0].Version, sum: s.Modules[0].Sum,
		licence: "GPL-2.0-only", description: "Linux kernel, device trees and overlays"})
	add(part{kind: cyclonedx.ComponentTypeFirmware, path: s.Modules[1].Path, version: s.Modules[1].Version, sum: s.Modules[1].Sum,
		description: "Raspberry Pi firmware, under the licence of Broadcom Corporation"})

	var components []cyclonedx.Component
	for _, p := range parts {
		url := "pkg:golang/" + p.path + "@" + p.version
		component := cyclonedx.Component{BOMRef: url, Type: p.kind, Name: p.path, Version: p.version, PackageURL: url, Description: p.description}
		if sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(p.sum, "h1:")); err == nil && len(sum) == 32 {
			component.Hashes = &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: hex.EncodeToString(sum)}}
		}
		if p.licence != "" {
			component.Licenses = &cyclonedx.Licenses{{License: &cyclonedx.License{ID: p.licence}}}
		}
		components = append(components, component)
	}
	slices.SortFunc(components, func(a, b cyclonedx.Component) int { return cmp.Compare(a.BOMRef, b.BOMRef) })

	const self = "cobox-image"
	refs := make([]string, len(components))
	for i := range components {
		refs[i] = components[i].BOMRef
	}
	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{
		Timestamp: c.Time.Format(time.RFC3339),
		Component: &cyclonedx.Component{BOMRef: self, Type: cyclonedx.ComponentTypeFirmware, Name: c.Name, Version: c.Version},
	}
	bom.Components = &components
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: self, Dependencies: &refs}}
	var out bytes.Buffer
	if err := cyclonedx.NewBOMEncoder(&out, cyclonedx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cyclonedx.SpecVersion1_6); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
