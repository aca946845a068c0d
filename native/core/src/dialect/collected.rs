//! A whole answer: what documents are written from, and the closing events of streams that repeat everything.

use super::ending::Ending;
use super::reading::MAX_BLOCKS;
use super::words::{Fault, Sink, Word};

/// A part of the answer. Texts are escaped as they came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Block {
    Text(Vec<u8>),
    Refusal(Vec<u8>),
    Thought {
        text: Vec<u8>,
        signature: Vec<u8>,
    },
    Sealed(Vec<u8>),
    Call {
        key: u32,
        id: Vec<u8>,
        name: Vec<u8>,
        arguments: Vec<u8>,
    },
}

/// The parts in their order, and the end.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) blocks: Vec<Block>,
    pub(super) logprobs: Vec<u8>,
    pub(super) ending: Ending,
    pub(super) bytes: usize,
    /// The upstream's error: its kind and its message.
    pub(super) fault: Option<(Vec<u8>, Vec<u8>)>,
}

impl Sink for Collected {
    fn word(&mut self, word: Word<'_>) -> Result<(), Fault> {
        self.ending.word(word);
        if self.blocks.len() > MAX_BLOCKS {
            return Err(Fault("its answer has too many parts"));
        }
        match word {
            Word::Text(text) => {
                self.bytes += text.len();
                match self.blocks.last_mut() {
                    Some(Block::Text(whole)) => whole.extend_from_slice(text),
                    _ => self.blocks.push(Block::Text(text.to_vec())),
                }
            }
            Word::Refusal(text) => {
                self.bytes += text.len();
                match self.blocks.last_mut() {
                    Some(Block::Refusal(whole)) => whole.extend_from_slice(text),
                    _ => self.blocks.push(Block::Refusal(text.to_vec())),
                }
            }
            Word::Thought(piece) => {
                self.bytes += piece.len();
                match self.blocks.last_mut() {
                    Some(Block::Thought { text, signature }) if signature.is_empty() => text.extend_from_slice(piece),
                    _ => self.blocks.push(Block::Thought {
                        text: piece.to_vec(),
                        signature: Vec::new(),
                    }),
                }
            }
            Word::Signature(piece) => {
                self.bytes += piece.len();
                match self.blocks.last_mut() {
                    Some(Block::Thought { signature, .. }) => signature.extend_from_slice(piece),
                    _ => self.blocks.push(Block::Thought {
                        text: Vec::new(),
                        signature: piece.to_vec(),
                    }),
                }
            }
            Word::Sealed(data) => {
                self.bytes += data.len();
                self.blocks.push(Block::Sealed(data.to_vec()));
            }
            Word::Logprobs(list) => {
                self.bytes += list.len();
                if !self.logprobs.is_empty() && !list.is_empty() {
                    self.logprobs.push(b',');
                }
                self.logprobs.extend_from_slice(list);
            }
            Word::CallBegin { key, id, name } => self.blocks.push(Block::Call {
                key,
                id: id.to_vec(),
                name: name.to_vec(),
                arguments: Vec::new(),
            }),
            Word::CallArguments { key, text } => {
                self.bytes += text.len();
                let call = self.blocks.iter_mut().rev().find_map(|block| match block {
                    Block::Call {
                        key: own, arguments, ..
                    } if *own == key => Some(arguments),
                    _ => None,
                });
                if let Some(arguments) = call {
                    arguments.extend_from_slice(text);
                }
            }
            Word::Fault { message, kind } => self.fault = Some((kind.to_vec(), message.to_vec())),
            Word::Finish(..) | Word::Usage(_) | Word::End => {}
        }
        Ok(())
    }
}
