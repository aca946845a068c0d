// What a server in Go takes as the model of a request: JSON lines of {kind, body (base64)} in, lists of models out.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
)

type request struct{ Kind, Body string }

type named struct {
	Model *string `json:"model"`
}

func models(kind string, body []byte) []string {
	found := []string{}
	take := func(n named, err error) {
		if err == nil && n.Model != nil {
			found = append(found, *n.Model)
		}
	}
	var whole, first named
	take(whole, json.Unmarshal(body, &whole))
	// gin and Ollama: the first value, whatever stands behind it.
	take(first, json.NewDecoder(bytes.NewReader(body)).Decode(&first))
	media, params, err := mime.ParseMediaType(kind)
	if err != nil || media != "multipart/form-data" {
		return found
	}
	reader := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for {
		part, err := reader.NextPart()
		if err != nil {
			break
		}
		value, err := io.ReadAll(part)
		if err == nil && part.FormName() == "model" {
			found = append(found, string(value))
		}
	}
	if r, err := http.NewRequest("POST", "/", bytes.NewReader(body)); err == nil {
		r.Header.Set("Content-Type", kind)
		if r.ParseMultipartForm(1<<20) == nil && len(r.MultipartForm.Value["model"]) > 0 {
			found = append(found, r.FormValue("model"))
		}
	}
	return found
}

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := json.NewEncoder(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) == 0 && err != nil {
			return
		}
		var r request
		if json.Unmarshal(line, &r) != nil {
			os.Exit(1)
		}
		body, _ := base64.StdEncoding.DecodeString(r.Body)
		out.Encode(models(r.Kind, body))
	}
}
