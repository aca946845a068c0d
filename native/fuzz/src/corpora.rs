//! Corpora that others wrote, read where they are: beside the checkout, or in the folder that `BUDGATEWAY_CORPORA` names.

use std::path::{Path, PathBuf};

use crate::document::{Value, read};

/// Seeds for one check, and which corpora are absent.
#[derive(Default)]
pub struct Corpora {
    /// Inputs for a parser.
    pub texts: Vec<Vec<u8>>,
    /// Paths where nothing is.
    pub absent: Vec<PathBuf>,
}

/// The folder of the corpora.
pub fn folder() -> PathBuf {
    let named = std::env::var_os("BUDGATEWAY_CORPORA").filter(|name| !name.is_empty());
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpora");
    named.map_or(beside, PathBuf::from)
}

/// Those of use for one check.
pub fn of_others(check: &str) -> Corpora {
    let mut found = Corpora::default();
    match check {
        "json" | "token" => {
            found.files("json-test-suite/test_parsing");
            found.files("json-test-suite/test_transform");
            found.add("naughty-strings/blns.json", |text| {
                let value = read(text).expect("JSON");
                value
                    .elements()
                    .iter()
                    .map(|string| text[string.at.clone()].to_vec())
                    .collect()
            });
            found.add("utf8-decoder/utf8tests.bin", |text| {
                let lines = text.split(|byte| *byte == b'\n');
                lines.map(|line| [b"{\"model\":\"", line, b"\"}"].concat()).collect()
            });
            found.lines("llm-streams-cassettes/streams.jsonl", |text, line| {
                // The request, and one event in sixteen: they are all alike.
                let stream = line.member("sse").and_then(Value::text).unwrap_or_default();
                let events = stream.lines().filter_map(|line| line.strip_prefix("data: "));
                let events = events.step_by(16).map(|event| event.as_bytes().to_vec());
                let request = line
                    .member("request_json")
                    .map(|request| text[request.at.clone()].to_vec());
                events.chain(request).collect()
            });
        }
        "sse" => {
            found.lines("sse/vectors.jsonl", |_, line| vec![joined(line.member("chunks_b64"))]);
            let text = |line: &Value, name| {
                line.member(name)
                    .and_then(Value::text)
                    .map(|text| text.as_bytes().to_vec())
            };
            found.lines("llm-streams-cassettes/streams.jsonl", |_, line| {
                Vec::from_iter(text(line, "sse"))
            });
            found.lines("llm-streams-cassettes/errors.jsonl", |_, line| {
                Vec::from_iter(text(line, "body"))
            });
        }
        "head" | "chunk" => {
            for name in ["http1-llhttp/vectors.jsonl", "http1-gunicorn/vectors.jsonl"] {
                found.lines(name, |_, line| {
                    let message = decoded(line.member("raw_b64"));
                    let end = message.windows(4).position(|four| four == b"\r\n\r\n");
                    match (check, end) {
                        ("chunk", Some(end)) => vec![message[end + 4..].to_vec()],
                        ("chunk", None) => Vec::new(),
                        _ => vec![message],
                    }
                });
            }
            found.add("naughty-strings/blns.json", |text| {
                let value = read(text).expect("JSON");
                let strings = value.elements().iter().filter_map(Value::text);
                let places = |string: &str| match check {
                    "chunk" => vec![format!("1;{string}\r\na\r\n0\r\na: {string}\r\n\r\n")],
                    _ => vec![
                        format!("GET /{string} HTTP/1.1\r\nhost: a\r\nx-a: {string}\r\n\r\n"),
                        format!("HTTP/1.1 200 {string}\r\n{string}: 1\r\n\r\n"),
                    ],
                };
                strings.flat_map(places).map(String::into_bytes).collect()
            });
        }
        // Nobody wrote frames down.
        _ => {}
    }
    found
}

impl Corpora {
    /// Adds the inputs that `make` creates from a file.
    fn add(&mut self, name: &str, make: impl FnOnce(&[u8]) -> Vec<Vec<u8>>) {
        let path = folder().join(name);
        let Ok(text) = std::fs::read(&path) else {
            self.absent.push(path);
            return;
        };
        let texts = make(&text);
        assert!(!texts.is_empty(), "{} has another form", path.display());
        self.texts.extend(texts);
    }

    /// Adds the inputs that `make` creates from each line, which is JSON.
    fn lines(&mut self, name: &str, make: impl Fn(&[u8], &Value) -> Vec<Vec<u8>>) {
        self.add(name, |text| {
            let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines.flat_map(|line| make(line, &read(line).expect("JSON"))).collect()
        });
    }

    /// All files of a folder, in the order of their names.
    fn files(&mut self, name: &str) {
        let folder = folder().join(name);
        let mut paths: Vec<_> = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|file| file.path())
            .collect();
        paths.sort();
        if paths.is_empty() {
            self.absent.push(folder);
        }
        self.texts
            .extend(paths.iter().filter_map(|path| std::fs::read(path).ok()));
    }
}

fn joined(chunks: Option<&Value>) -> Vec<u8> {
    let chunks = chunks.map(Value::elements).unwrap_or_default();
    chunks.iter().flat_map(|chunk| decoded(Some(chunk))).collect()
}

/// RFC 4648 4.
fn decoded(text: Option<&Value>) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = text.and_then(Value::text).expect("a string");
    let (mut bytes, mut bits, mut sum) = (Vec::new(), 0, 0_u32);
    for letter in text.trim_end_matches('=').bytes() {
        let digit = alphabet.iter().position(|other| *other == letter).expect("base64");
        (bits, sum) = (bits + 6, (sum << 6 | digit as u32) & 0xffff);
        if bits >= 8 {
            bits -= 8;
            bytes.push((sum >> bits) as u8);
        }
    }
    bytes
}
