package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hamba/avro/v2"
)

// Schemas knows every record of turnstream by the fingerprint that stands in it.
type Schemas struct {
	byFingerprint map[string]avro.Schema
	byName        map[string]avro.Schema
}

// marker begins a record in Avro's single-object encoding; eight bytes of fingerprint follow,
// little-endian, and then the record.
var marker = []byte{0xC3, 0x01}

const headBytes = 10

// LoadSchemas reads the .avsc files of a folder, and those of earlier versions below it.
func LoadSchemas(folder string) (*Schemas, error) {
	files, _ := filepath.Glob(filepath.Join(folder, "*.avsc"))
	if len(files) == 0 {
		return nil, fmt.Errorf("no .avsc files in %s", folder)
	}
	earlier, _ := filepath.Glob(filepath.Join(folder, "earlier", "*.avsc"))
	files = append(files, earlier...)
	found := &Schemas{map[string]avro.Schema{}, map[string]avro.Schema{}}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		// a cache of its own: several files define the record Usage
		schema, err := avro.ParseBytesWithCache(text, "", &avro.SchemaCache{})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		fingerprint, err := schema.FingerprintUsing(avro.CRC64AvroLE)
		if err != nil {
			return nil, err
		}
		found.byFingerprint[hex.EncodeToString(fingerprint)] = schema
		found.byName[strings.TrimSuffix(filepath.Base(file), ".avsc")] = schema
	}
	return found, nil
}

// Decode returns a record's type name and its fields. A fingerprint that is not known belongs to a
// newer writer: such a record is skipped, it is no error.
func (s *Schemas) Decode(data []byte) (name string, fields map[string]any, err error) {
	if len(data) < headBytes || !bytes.HasPrefix(data, marker) {
		return "", nil, fmt.Errorf("no single-object encoding: %x", data[:min(len(data), headBytes)])
	}
	schema, ok := s.byFingerprint[hex.EncodeToString(data[2:headBytes])]
	if !ok {
		return "", nil, nil
	}
	if err := avro.Unmarshal(schema, data[headBytes:], &fields); err != nil {
		return "", nil, err
	}
	return schema.(avro.NamedSchema).Name(), fields, nil
}

// Encode returns a record in single-object encoding; `fields` needs every field of the schema.
func (s *Schemas) Encode(name string, fields map[string]any) ([]byte, error) {
	schema := s.byName[name]
	fingerprint, err := schema.FingerprintUsing(avro.CRC64AvroLE)
	if err != nil {
		return nil, err
	}
	body, err := avro.Marshal(schema, fields)
	if err != nil {
		return nil, err
	}
	return append(append(bytes.Clone(marker), fingerprint...), body...), nil
}

// CheckVectors reads tests/vectors/avro.json and counts the records that decode to their fields
// and encode to their bytes.
func CheckVectors(s *Schemas, file string) (same, all int, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, 0, err
	}
	var vectors []struct {
		Name   string          `json:"name"`
		Fields json.RawMessage `json:"fields"`
		Bytes  string          `json:"bytes"`
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		return 0, 0, err
	}
	for _, one := range vectors {
		data, err := base64.StdEncoding.DecodeString(one.Bytes)
		if err != nil {
			return same, len(vectors), err
		}
		name, fields, err := s.Decode(data)
		if err != nil || name != one.Name {
			return same, len(vectors), fmt.Errorf("%s: read as %q: %w", one.Name, name, err)
		}
		again, err := s.Encode(name, fields)
		if err != nil {
			return same, len(vectors), err
		}
		// not by its bytes: hamba writes the size of an array's block before it, as Avro allows
		_, written, err := s.Decode(again)
		if err != nil {
			return same, len(vectors), err
		}
		if sameJSON(fields, one.Fields) && sameJSON(written, one.Fields) {
			same++
		}
	}
	return same, len(vectors), nil
}

func sameJSON(fields map[string]any, wanted json.RawMessage) bool {
	var want any
	if json.Unmarshal(wanted, &want) != nil {
		return false
	}
	text, _ := json.Marshal(fields)
	var have any
	if json.Unmarshal(text, &have) != nil {
		return false
	}
	left, _ := json.Marshal(withoutUnionNames(have))
	right, _ := json.Marshal(want)
	return bytes.Equal(left, right)
}

// withoutUnionNames replaces {"turnstream.Usage": {...}}, as hamba gives a value of the union
// ["null", Usage], by the value.
func withoutUnionNames(value any) any {
	fields, ok := value.(map[string]any)
	if !ok {
		return value
	}
	for name, one := range fields {
		if len(fields) == 1 && strings.HasPrefix(name, "turnstream.") {
			return one
		}
		fields[name] = withoutUnionNames(one)
	}
	return fields
}
