//! Of every text, wherever blocks cut it, the scanners say what a slow reader says; edits leave JSON that holds them.

use std::convert::Infallible;

use budgateway_core::json::{
    Fields, JsonError, Listener, Outline, Splice, Visitor, Want, asking_options, quote, unescape, walk,
};

use crate::document::{Member, Value, read};
use crate::{Dice, cut};

const NAMES: [&str; 3] = ["a", "model", "stream"];

/// As the first line says.
pub fn check(text: &[u8]) {
    let fields = Fields::new(NAMES).expect("three names");
    let mut dice = Dice::of(text);
    agree(&fields, text);
    // The same text elsewhere: in other places of the blocks of 64 bytes, and behind text that is looked at in bigger steps.
    for _ in 0..3 {
        let (before, after) = (vec![b' '; dice.below(130)], vec![b'\n'; dice.below(70)]);
        agree(&fields, &[&before[..], text, &after].concat());
        let long = vec![b'y'; *dice.pick(&[60, 130, 1200]) + dice.below(64)];
        agree(&fields, &[&b"{\"x\":\""[..], &long, b"\",\"a\":", text, b"}"].concat());
        let piece = dice.below(text.len() + 1);
        agree(&fields, &[&b"[\""[..], &long, &text[piece..], b"\"]"].concat());
    }
    let Some(value) = read(text) else { return };
    if value.members().is_some() {
        edits(&fields, text, &value, &mut dice);
        outline(text, &value, &mut dice);
    }
    if let Some(asking) = asking_options(Some(text)) {
        let value = read(&asking).expect("JSON");
        let switch = value.member("include_usage").expect("it is asked for");
        assert_eq!(&asking[switch.at.clone()], b"true");
    }
}

/// The scanners and the slow reader say the same of one text.
fn agree(fields: &Fields, text: &[u8]) {
    let shown = || String::from_utf8_lossy(text);
    let slow = read(text);
    let members = slow.as_ref().and_then(Value::members);

    let mut heard = Heard::default();
    let verdict = walk(text, &mut heard);
    assert_eq!(verdict.is_ok(), slow.is_some(), "{verdict:?}: {}", shown());
    if let Err(JsonError::Syntax { at, .. }) = verdict {
        assert!(at <= text.len());
    }
    if slow.is_some() {
        let all = members.unwrap_or_default().iter();
        let all = all.map(|member| (member.at.start, member.value.at.start, member.value.at.end));
        assert!(heard.members.into_iter().eq(all), "{}", shown());
    }

    let peeked = fields.peek(text);
    let Some(slow) = slow.as_ref() else {
        assert!(peeked.is_err(), "{}", shown());
        return;
    };
    let mut seen: Vec<&str> = Vec::new();
    for key in members.unwrap_or_default().iter().map(|member| member.key.as_str()) {
        if NAMES.contains(&key) && seen.contains(&key) {
            assert_eq!(
                peeked.expect_err("twice"),
                JsonError::Duplicate(key.into()),
                "{}",
                shown()
            );
            return;
        }
        seen.push(key);
    }
    let peeked = peeked.unwrap_or_else(|error| panic!("{error}: {}", shown()));
    assert_eq!(peeked.is_object(), members.is_some());
    for (field, name) in NAMES.into_iter().enumerate() {
        let value = slow.member(name);
        assert_eq!(peeked.span(field), value.map(|value| value.at.clone()), "{}", shown());
        let said = value.and_then(Value::text);
        assert_eq!(peeked.raw_string(text, field).map(unescape).as_deref(), said);
        if let Some(said) = said {
            assert_eq!(read(&quote(said)).as_ref().and_then(Value::text), Some(said));
        }
    }
}

/// The members' positions that `walk` reports.
#[derive(Default)]
struct Heard {
    members: Vec<(usize, usize, usize)>,
}

impl Visitor for Heard {
    type Tag = ();

    fn key(&mut self, _: &[u8], _: bool) -> Option<()> {
        Some(())
    }

    fn member(&mut self, (): (), key: usize, start: usize, end: usize) -> Result<(), JsonError> {
        self.members.push((key, start, end));
        Ok(())
    }
}

/// After an edit the members are those that were there, in their order, but for what was edited; what is new comes first.
fn edits(fields: &Fields, text: &[u8], value: &Value, dice: &mut Dice) {
    let Ok(found) = fields.peek(text) else { return };
    for _ in 0..4 {
        let choices: [Option<&[u8]>; 4] = [None, Some(b"[\"x\"]"), Some(b"\"m\""), Some(b"0")];
        let edits: Vec<_> = (0..dice.below(4))
            .map(|_| (dice.below(3), *dice.pick(&choices)))
            .collect();
        let splice = Splice::plan(fields, &found, text, edits.iter().copied()).expect("an object");
        let mut out = Vec::new();
        let Ok(()) = splice.pieces::<Infallible>(|piece| {
            out.extend_from_slice(piece);
            Ok(())
        });
        assert_eq!(out.len(), splice.len());

        // The later of two edits counts.
        let edit = |name: &str| edits.iter().rev().find(|edit| NAMES[edit.0] == name).map(|edit| edit.1);
        let is_new = |name: &&str| value.member(name).is_none();
        let new = NAMES
            .into_iter()
            .filter(is_new)
            .filter_map(|name| Some((name, edit(name)??)));
        let kept = value.members().unwrap_or_default().iter().filter_map(|member| {
            let value = edit(&member.key).unwrap_or(Some(&text[member.value.at.clone()]));
            Some((member.key.as_str(), value?))
        });
        let edited = read(&out).unwrap_or_else(|| panic!("no JSON: {}", String::from_utf8_lossy(&out)));
        let edited = edited.members().expect("an object").iter();
        let edited = edited.map(|member: &Member| (member.key.as_str(), &out[member.value.at.clone()]));
        assert!(edited.eq(new.chain(kept)), "{}", String::from_utf8_lossy(&out));
    }
}

/// However an object arrives, its outline tells of the members that it has.
fn outline(text: &[u8], value: &Value, dice: &mut Dice) {
    let mut expected = Vec::new();
    for member in value.members().unwrap_or_default() {
        match member.key.as_str() {
            "model" => expected.push(&text[member.value.at.clone()]),
            "message" => {
                let inner = member.value.members().unwrap_or_default().iter();
                let inner = inner.filter(|inner| inner.key == "model");
                expected.extend(inner.map(|inner| &text[inner.value.at.clone()]));
            }
            _ => {}
        }
    }
    for way in cut::ways(text, dice) {
        let (mut outline, mut told) = (Outline::new(), Told::default());
        for piece in way {
            outline.feed(piece, &mut told);
            told.before += piece.len();
        }
        assert!(outline.is_complete());
        let told = told.values.into_iter().map(|(start, end)| &text[start..end]);
        assert!(told.eq(expected.iter().copied()), "{}", String::from_utf8_lossy(text));
    }
}

/// The values of `model`, of the object itself or of its `message`.
#[derive(Default)]
struct Told {
    before: usize,
    values: Vec<(usize, usize)>,
}

impl Listener for Told {
    fn key(&mut self, key: &[u8], inside: bool) -> Want {
        match key {
            b"model" => Want::Value(0),
            b"message" if !inside => Want::Inside,
            _ => Want::Nothing,
        }
    }

    fn begin(&mut self, _: u8, at: usize) {
        self.values.push((self.before + at, 0));
    }

    fn end(&mut self, _: u8, at: usize) {
        self.values.last_mut().expect("it began").1 = self.before + at;
    }
}
