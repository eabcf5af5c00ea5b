package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
)

func receive(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Countersign-Verified") == "" {
		w.WriteHeader(http.StatusForbidden)
	} else if body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<20)); err != nil {
		w.WriteHeader(http.StatusInternalServerError)
	} else if err := store(body); err != nil {
		log.Print(r.Header.Get("Countersign-Request-Id"), ": ", err)
		w.WriteHeader(http.StatusInternalServerError) // the sender tries again
	} else {
		w.WriteHeader(http.StatusNoContent)
	}
}

func store(body []byte) error {
	inbox := env("INBOX", "inbox")
	file, err := os.CreateTemp(inbox, "*.part")
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(body); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	return os.Rename(file.Name(), fmt.Sprintf("%s/%x", inbox, sha256.Sum256(body)))
}

func env(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

func main() {
	http.HandleFunc("/webhooks/carevalidate", receive)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+env("PORT", "3000"), nil))
}
