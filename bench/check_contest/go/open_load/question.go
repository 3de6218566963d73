package main

import (
	"encoding/binary"
	"errors"
	"os"
)

const headBytes = 5

// question is one check, and whether a right answer lets it in.
type question struct {
	isLetIn bool
	message []byte
}

func readQuestions(file string) ([]question, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var found []question
	for len(data) >= headBytes {
		end := headBytes + int(binary.BigEndian.Uint32(data[1:headBytes]))
		if end > len(data) {
			break
		}
		found = append(found, question{data[0] == 1, data[headBytes:end]})
		data = data[end:]
	}
	if len(found) == 0 || len(data) > 0 {
		return nil, errors.New(file + " holds no checks, or a part of one")
	}
	return found, nil
}
