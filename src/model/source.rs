//! The user's files as text, and places in them.

use std::ops::Range;
use std::sync::OnceLock;

/// What some editors begin a file with, and nobody sees.
pub const BOM: char = '\u{feff}';

/// One file.
#[derive(Clone, Debug)]
pub struct Source {
    /// The path as the user gave it: what errors show.
    pub path: String,
    /// Its whole content.
    pub text: String,
    /// Where each line starts, so that looking up places does not walk the file for each; nothing until one is.
    lines: OnceLock<Vec<u32>>,
}

impl Source {
    /// Keeps the text.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into(), lines: OnceLock::new() }
    }

    fn lines(&self) -> &[u32] {
        let starts = || std::iter::once(0).chain(self.text.match_indices('\n').map(|(at, _)| at as u32 + 1));
        self.lines.get_or_init(|| starts().collect())
    }
}

/// The files of one topology, in the order in which they were given; [`Span::file`] indexes them.
pub type Sources = Vec<Source>;

/// A place in one of the files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Span {
    /// Index into [`Sources`].
    pub file: u32,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// A place as people read it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Origin {
    /// The path as the user gave it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl Span {
    /// A place within this one, counted from its start.
    #[must_use]
    pub fn at(self, range: Range<usize>) -> Self {
        Self { start: self.start + range.start as u32, end: self.start + range.end as u32, ..self }
    }

    /// The text at the place; empty outside of the sources.
    pub fn text(self, sources: &[Source]) -> &str {
        let text = sources.get(self.file as usize).map_or("", |source| &source.text);
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Line and column of the first byte; a span outside of the sources gives the start of nothing.
    pub fn origin(self, sources: &[Source]) -> Origin {
        let Some(source) = sources.get(self.file as usize) else {
            return Origin { file: String::new(), line: 1, column: 1 };
        };
        let lines = source.lines();
        let line = lines.partition_point(|start| *start <= self.start).max(1);
        let before = source.text.get(lines[line - 1] as usize..self.start as usize).unwrap_or_default();
        let before = before.strip_prefix(BOM).unwrap_or(before);
        Origin { file: source.path.clone(), line, column: before.chars().count() + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_lines_and_characters() {
        let sources = [Source::new("a.toml", "one\ntwö three\n")];
        let place = |start| {
            let origin = Span { file: 0, start, end: start + 1 }.origin(&sources);
            (origin.line, origin.column)
        };
        assert_eq!(place(0), (1, 1));
        assert_eq!(place(4), (2, 1));
        assert_eq!(place(9), (2, 5), "`three` starts after five characters in six bytes");
        assert_eq!(place(15), (3, 1), "the end of the file");
        let marked = [Source::new("a.toml", "\u{feff}one\n")];
        assert_eq!(Span { file: 0, start: 4, end: 5 }.origin(&marked).column, 2, "what nobody sees is no column");
    }
}
