//! The command line: what was asked for, checked.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};

use crate::mix::Mix;
use crate::payload;

const HELP: &str = "\
Measures model gateways: a load generator and a null model server.

Usage: budgateway-load upstream [options]
       budgateway-load run [options] http://HOST:PORT/PATH

upstream: answers POST with a fixed 400 B chat completion, or, where the body says \"stream\":true, with max_tokens events
of 190 B; GET /health, /v1/models, /stats. Prints `listening on http://HOST:PORT`.
  --host ADDR          listen here (127.0.0.1)
  --port PORT          0: one that is free (0)
  --interval-us N      between two events of a stream (2500)
  --pace step|spread   step: all streams get their events together, as from an engine's batch; spread: each in its own
                       time (step)
  --events N           of a stream whose request has no max_tokens (64)
  --delay-ms N         until an answer that is no stream is there (0)

run: sends requests, checks every response, prints a JSON report. Ends with 0 when all were right, 1 when not, 2 when it
could not run.
  --connections N      at most so many requests at once (64)
  --streams N          the same, of event streams
  --rate R             open loop: R requests a second whatever the answers take, latency counted from when each was due;
                       without it closed loop: the next request when the last was answered
  --duration S         stop sending after S seconds (10, unless --requests)
  --requests N         stop sending after N requests
  --timeout S          a response takes no longer (30)
  --method NAME        (POST)
  --header 'K: V'      may be repeated
  --body-bytes N       size of the chat request (300)
  --body-file FILE     send this instead; with --streams it must ask for --events events
  --model NAME         model in the chat request (bench-model)
  --tokens FILE        spread the requests over the bearer tokens of this file, one a line
  --models FILE        spread them over the models of this file, one a line, all names of one length
  --seed N             order in which tokens and models are chosen (1)
  --close              a connection for each request, with `connection: close`; latency counts from opening it
  --events N           events of a stream, asked for as max_tokens (400)
  --expect-bytes N     a plain response's body must be this long
  --allow-remote       permit a target that is not on this machine";

/// The command to run.
#[derive(Debug)]
pub(crate) enum Command {
    Help(&'static str),
    Upstream(UpstreamOptions),
    Run(Box<RunOptions>),
}

/// The timing of one server's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Step,
    Spread,
}

/// The null model server's settings.
#[derive(Debug)]
pub(crate) struct UpstreamOptions {
    pub(crate) address: SocketAddr,
    pub(crate) interval: Duration,
    pub(crate) pace: Pace,
    pub(crate) events: u32,
    pub(crate) delay: Duration,
}

/// The load generator's settings.
#[derive(Debug)]
pub(crate) struct RunOptions {
    pub(crate) target: SocketAddr,
    pub(crate) mix: Mix,
    /// Of the order in which tokens and models are chosen.
    pub(crate) seed: u64,
    /// One request a connection.
    pub(crate) close: bool,
    pub(crate) connections: usize,
    /// Events to expect of each stream; None for plain responses.
    pub(crate) events: Option<u32>,
    /// Requests a second; None for closed loop.
    pub(crate) rate: Option<f64>,
    pub(crate) requests: Option<u64>,
    pub(crate) duration: Option<Duration>,
    pub(crate) timeout: Duration,
    pub(crate) expect_bytes: Option<u64>,
}

/// An error in the command line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error(transparent)]
    Option(#[from] lexopt::Error),
    #[error("{0}")]
    Value(String),
}

fn wrong<T>(message: impl Into<String>) -> Result<T, UsageError> {
    Err(UsageError::Value(message.into()))
}

/// Reads the command line, the program's name first.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut parser = Parser::from_iter(args);
    match parser.next()? {
        Some(Arg::Value(word)) if word == "upstream" => upstream(&mut parser),
        Some(Arg::Value(word)) if word == "run" => run(&mut parser),
        None | Some(Arg::Short('h') | Arg::Long("help")) => Ok(Command::Help(HELP)),
        Some(other) => Err(other.unexpected().into()),
    }
}

fn upstream(parser: &mut Parser) -> Result<Command, UsageError> {
    let (mut host, mut port) = (IpAddr::from([127, 0, 0, 1]), 0);
    let (mut interval_us, mut pace, mut events, mut delay_ms) = (2_500, Pace::Step, 64, 0);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help(HELP)),
            Arg::Long("host") => host = parser.value()?.parse()?,
            Arg::Long("port") => port = parser.value()?.parse()?,
            Arg::Long("interval-us") => interval_us = parser.value()?.parse()?,
            Arg::Long("pace") => pace = parser.value()?.parse()?,
            Arg::Long("events") => events = parser.value()?.parse()?,
            Arg::Long("delay-ms") => delay_ms = parser.value()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Command::Upstream(UpstreamOptions {
        address: SocketAddr::new(host, port),
        interval: Duration::from_micros(interval_us).max(Duration::from_micros(10)),
        pace,
        events,
        delay: Duration::from_millis(delay_ms),
    }))
}

fn run(parser: &mut Parser) -> Result<Command, UsageError> {
    let mut url: Option<String> = None;
    let (mut connections, mut streams, mut rate) = (64, None, None);
    let (mut duration_s, mut requests, mut timeout_s) = (None, None, 30.0);
    let (mut method, mut headers) = ("POST".to_owned(), Vec::<String>::new());
    let (mut body_bytes, mut body_file, mut model) = (300, None, payload::MODEL.to_owned());
    let (mut events, mut expect_bytes, mut allow_remote) = (400, None, false);
    let (mut tokens, mut models, mut seed, mut close) = (Vec::new(), Vec::new(), 1, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help(HELP)),
            Arg::Long("connections") => connections = parser.value()?.parse()?,
            Arg::Long("streams") => streams = Some(parser.value()?.parse()?),
            Arg::Long("rate") => rate = Some(parser.value()?.parse()?),
            Arg::Long("duration") => duration_s = Some(parser.value()?.parse()?),
            Arg::Long("requests") => requests = Some(parser.value()?.parse()?),
            Arg::Long("timeout") => timeout_s = parser.value()?.parse()?,
            Arg::Long("method") => method = parser.value()?.string()?,
            Arg::Long("header") => headers.push(parser.value()?.string()?),
            Arg::Long("body-bytes") => body_bytes = parser.value()?.parse()?,
            Arg::Long("body-file") => body_file = Some(parser.value()?),
            Arg::Long("model") => model = parser.value()?.string()?,
            Arg::Long("tokens") => tokens = lines(&parser.value()?)?,
            Arg::Long("models") => models = lines(&parser.value()?)?,
            Arg::Long("seed") => seed = parser.value()?.parse()?,
            Arg::Long("close") => close = true,
            Arg::Long("events") => events = parser.value()?.parse()?,
            Arg::Long("expect-bytes") => expect_bytes = Some(parser.value()?.parse()?),
            Arg::Long("allow-remote") => allow_remote = true,
            Arg::Value(value) if url.is_none() => url = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let Some(url) = url else {
        return wrong("run needs a URL");
    };
    let (authority, path, target) = target(&url, allow_remote)?;
    let events = streams.map(|_| events);
    if let Some(first) = models.first() {
        if body_file.is_some() || method == "GET" {
            return wrong("--models needs the generator's own chat request");
        }
        if models.iter().any(|name| name.len() != first.len()) {
            return wrong("--models needs names of one length");
        }
        model.clone_from(first);
    }
    let body = match body_file {
        Some(file) => std::fs::read(&file).or_else(|error| wrong(format!("{}: {error}", file.to_string_lossy())))?,
        None if method == "GET" => Vec::new(),
        None => payload::chat_request(body_bytes, &model, events),
    };
    let connections = streams.unwrap_or(connections);
    if connections == 0 {
        return wrong("needs at least one connection");
    }
    if rate.is_some_and(|rate: f64| !(rate.is_finite() && rate > 0.0)) {
        return wrong("--rate must be positive");
    }
    if close {
        headers.push("Connection: close".to_owned());
    }
    if !tokens.is_empty() {
        headers.push(format!("Authorization: Bearer {PLACE}"));
    }
    let request = request(&method, &path, &authority, &headers, &body)?;
    // No run goes on for ever.
    let duration_s = duration_s.or(if requests.is_none() { Some(10.0) } else { None });
    Ok(Command::Run(Box::new(RunOptions {
        target,
        mix: spread(request, tokens, models, &model),
        seed,
        close,
        connections,
        events,
        rate,
        requests,
        duration: duration_s.map(seconds).transpose()?,
        timeout: seconds(timeout_s)?,
        expect_bytes,
    })))
}

/// Stands in a request for the token.
const PLACE: &str = "<token>";

/// Cuts the request at the places of the token and of the model that it was made with.
fn spread(request: Vec<u8>, tokens: Vec<String>, models: Vec<String>, model: &str) -> Mix {
    let (mut before, mut rest) = (Vec::new(), request);
    if !tokens.is_empty() {
        (before, rest) = cut(&rest, PLACE.as_bytes());
    }
    if models.is_empty() {
        return Mix::spread([before, rest, Vec::new()], tokens, models);
    }
    // The chat request begins with its model.
    let (middle, end) = cut(&rest, format!("{{\"model\":\"{model}").as_bytes());
    Mix::spread([before, [&middle[..], b"{\"model\":\""].concat(), end], tokens, models)
}

/// The bytes before the first `word` and those after it.
fn cut(text: &[u8], word: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let at = memchr::memmem::find(text, word).unwrap_or(text.len());
    let after = text.get(at + word.len()..).unwrap_or_default();
    (text[..at].to_vec(), after.to_vec())
}

/// The lines of a file that are not empty; at least one.
fn lines(file: &OsString) -> Result<Vec<String>, UsageError> {
    let name = file.to_string_lossy();
    let text = std::fs::read_to_string(file).or_else(|error| wrong(format!("{name}: {error}")))?;
    let lines: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    if lines.is_empty() {
        return wrong(format!("{name} is empty"));
    }
    Ok(lines)
}

fn seconds(value: f64) -> Result<Duration, UsageError> {
    Duration::try_from_secs_f64(value).or_else(|_| wrong(format!("{value} is no number of seconds")))
}

/// Authority, path and address of an http URL; refuses other machines, which a slip would flood.
fn target(url: &str, allow_remote: bool) -> Result<(String, String, SocketAddr), UsageError> {
    let Some(rest) = url.strip_prefix("http://") else {
        return wrong(format!("{url}: only http:// is spoken"));
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let has_port = authority.rsplit(']').next().unwrap_or(authority).contains(':');
    let with_port = if has_port {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let Some(address) = with_port.to_socket_addrs().ok().and_then(|mut all| all.next()) else {
        return wrong(format!("{authority}: no such address"));
    };
    if !address.ip().is_loopback() && !allow_remote {
        return wrong(format!("{authority} is not this machine; --allow-remote permits it"));
    }
    Ok((authority.to_owned(), path.to_owned(), address))
}

fn request(method: &str, path: &str, authority: &str, headers: &[String], body: &[u8]) -> Result<Vec<u8>, UsageError> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\n");
    let mut has_type = false;
    for header in headers {
        let Some((name, value)) = header.split_once(':') else {
            return wrong(format!("header {header:?} has no colon"));
        };
        if header.contains(['\r', '\n']) {
            return wrong(format!("header {header:?} has a line break"));
        }
        has_type |= name.eq_ignore_ascii_case("content-type");
        text.push_str(&format!("{name}: {}\r\n", value.trim()));
    }
    if !body.is_empty() && !has_type {
        text.push_str("Content-Type: application/json\r\n");
    }
    text.push_str("User-Agent: budgateway-load\r\nAccept: */*\r\n");
    if !body.is_empty() || method != "GET" {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    Ok(bytes)
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "step" => Ok(Self::Step),
            "spread" => Ok(Self::Spread),
            _ => Err(format!("{text:?} is neither step nor spread")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_options(line: &str) -> Result<RunOptions, String> {
        let words = std::iter::once("budgateway-load run").flat_map(|head| head.split(' '));
        match parse(words.chain(line.split(' ')).map(OsString::from)) {
            Ok(Command::Run(options)) => Ok(*options),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn other_machines_are_refused_unless_permitted() {
        for url in ["http://10.0.0.1:80/", "http://192.168.1.1/", "http://[2001:db8::1]:80/"] {
            assert!(
                run_options(url).is_err_and(|error| error.contains("--allow-remote")),
                "{url}"
            );
            assert!(run_options(&format!("--allow-remote {url}")).is_ok(), "{url}");
        }
        for url in [
            "http://127.0.0.1:8080/",
            "http://127.9.9.9/",
            "http://[::1]:80/",
            "http://[::1]/",
        ] {
            assert!(run_options(url).is_ok(), "{url}");
        }
        assert!(run_options("https://127.0.0.1/").is_err());
    }

    #[test]
    fn every_run_has_an_end() {
        let default = run_options("http://127.0.0.1:1/");
        assert_eq!(
            default.map(|options| options.duration),
            Ok(Some(Duration::from_secs(10)))
        );
        let counted = run_options("--requests 5 http://127.0.0.1:1/");
        assert_eq!(
            counted.map(|options| (options.duration, options.requests)),
            Ok((None, Some(5)))
        );
    }

    #[test]
    fn streams_ask_for_their_events() {
        let options = run_options("--streams 3 --events 17 http://127.0.0.1:1/v1/chat/completions");
        let text = options
            .as_ref()
            .map(|options| String::from_utf8_lossy(options.mix.first()).into_owned());
        assert!(text.is_ok_and(|text| text.contains("\"stream\":true") && text.contains("\"max_tokens\":17")));
        assert_eq!(
            options.map(|options| (options.connections, options.events)),
            Ok((3, Some(17)))
        );
    }

    #[test]
    fn the_request_is_framed() {
        let options = run_options("--body-bytes 300 --header x-a:b http://127.0.0.1:1/v1/chat/completions?x=1");
        let text = options
            .map(|options| String::from_utf8_lossy(options.mix.first()).into_owned())
            .unwrap_or_default();
        assert!(text.starts_with("POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\nx-a: b\r\n"));
        assert!(text.contains("\r\nContent-Length: 300\r\n"));
        assert_eq!(text.split("\r\n\r\n").nth(1).map(str::len), Some(300));
        assert!(run_options("--header nocolon http://127.0.0.1:1/").is_err());
    }

    #[test]
    fn token_and_model_are_put_in_their_places() {
        let pid = std::process::id();
        let file = |name: &str, text: &str| {
            let path = std::env::temp_dir().join(format!("budgateway-load-{pid}-{name}"));
            std::fs::write(&path, text).map(|()| path.display().to_string())
        };
        let (Ok(tokens), Ok(models)) = (file("tokens", "one\n\ntwo\n"), file("models", "model-1\nmodel-2\n")) else {
            panic!("no place for files");
        };
        let spread = run_options(&format!(
            "--tokens {tokens} --models {models} --close http://127.0.0.1:1/"
        ));
        let unequal =
            file("unequal", "a\nbb\n").map(|path| run_options(&format!("--models {path} http://127.0.0.1:1/")));
        for name in ["tokens", "models", "unequal"] {
            let _ = std::fs::remove_file(std::env::temp_dir().join(format!("budgateway-load-{pid}-{name}")));
        }
        let text = spread.map(|options| String::from_utf8_lossy(options.mix.first()).into_owned());
        let text = text.unwrap_or_default();
        assert!(
            text.contains("\r\nConnection: close\r\nAuthorization: Bearer one\r\n"),
            "{text}"
        );
        assert!(text.contains("\r\nContent-Length: 300\r\n"), "{text}");
        let body = text.split("\r\n\r\n").nth(1);
        assert!(body.is_some_and(|body| body.starts_with("{\"model\":\"model-1\",") && body.len() == 300));
        assert!(unequal.is_ok_and(|options| options.is_err_and(|error| error.contains("one length"))));
        assert!(run_options("--tokens /nowhere http://127.0.0.1:1/").is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "",
            "--rate 0 http://127.0.0.1/",
            "--connections 0 http://127.0.0.1/",
            "--what http://127.0.0.1/",
        ] {
            assert!(run_options(line).is_err(), "{line}");
        }
    }
}
