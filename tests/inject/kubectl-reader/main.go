// Reads a JSON list of YAML documents and prints what kubectl's reader (sigs.k8s.io/yaml) makes of each:
// its JSON, or its error.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"sigs.k8s.io/yaml"
)

type answer struct {
	JSON  json.RawMessage `json:"json,omitempty"`
	Error string          `json:"error,omitempty"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var documents []string
	if err := json.NewDecoder(os.Stdin).Decode(&documents); err != nil {
		return err
	}
	answers := make([]answer, 0, len(documents))
	for _, document := range documents {
		read, err := yaml.YAMLToJSON([]byte(document))
		if err != nil {
			answers = append(answers, answer{Error: err.Error()})
		} else {
			answers = append(answers, answer{JSON: read})
		}
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}
