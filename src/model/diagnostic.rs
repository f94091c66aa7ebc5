//! What is wrong with a topology, where, and what would be right: as rustc shows it to people, and as JSON to programs.

use std::fmt::Write as _;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

use super::source::{BOM, Origin, Source, Span};

/// Findings that are shown to people at most; all of them are in the JSON form.
const SHOWN: usize = 50;

/// Bytes of a line that are shown at most, around what is pointed at.
const LINE: usize = 400;

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// What is wrong, in a sentence without a full stop.
    pub message: String,
    /// Where; none if no file is to blame.
    pub span: Option<Span>,
    /// What is wrong with the text at that place.
    pub label: String,
    /// Other places that belong to it.
    pub related: Vec<(Span, String)>,
    /// What would be right.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A finding without a place.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), span: None, label: String::new(), related: Vec::new(), hint: None }
    }

    /// A finding at a place.
    pub fn at(span: Span, message: impl Into<String>) -> Self {
        Self { span: Some(span), ..Self::new(message) }
    }

    /// Says what is wrong with the text at the place.
    #[must_use]
    pub fn label(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }

    /// Adds another place that belongs to it.
    #[must_use]
    pub fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    /// Says what would be right.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Says that the nearest of the known words may be meant, or else which there are.
    #[must_use]
    pub fn nearest<'a>(self, word: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let close = known.iter().map(|other| (strsim::jaro_winkler(word, other), *other));
        let close = close.max_by(|one, other| one.0.total_cmp(&other.0)).filter(|(likeness, _)| *likeness > 0.8);
        match (close, known.as_slice()) {
            (Some((_, word)), _) => self.hint(format!("did you mean `{word}`?")),
            (None, []) => self,
            (None, known) if known.len() <= 10 => self.hint(format!("there {}", listed(known))),
            (None, _) => self,
        }
    }

    fn place(&self) -> (Option<Span>, &str) {
        (self.span, &self.message)
    }
}

fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    format!("{} {}", if words.len() == 1 { "is only" } else { "are" }, quoted.join(", "))
}

/// Findings, in the order of their places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl From<Vec<Diagnostic>> for Diagnostics {
    fn from(mut all: Vec<Diagnostic>) -> Self {
        all.sort_by(|one, other| one.place().cmp(&other.place()));
        all.dedup();
        Self(all)
    }
}

impl Diagnostics {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }

    /// All of them, to be dealt with one by one.
    pub fn into_vec(self) -> Vec<Diagnostic> {
        self.0
    }
}

impl Diagnostic {
    /// The finding for programs.
    pub fn to_json(&self, sources: &[Source]) -> Json {
        let place = |span: Span, label: &str| Place {
            origin: span.origin(sources),
            text: span.text(sources).to_owned(),
            label: label.to_owned(),
        };
        Json {
            message: self.message.clone(),
            origin: self.span.map(|span| span.origin(sources)),
            text: self.span.map(|span| span.text(sources).to_owned()),
            label: self.label.clone(),
            related: self.related.iter().map(|(span, label)| place(*span, label)).collect(),
            hint: self.hint.clone(),
        }
    }
}

/// A finding for programs.
#[derive(Debug, Serialize)]
pub struct Json {
    message: String,
    origin: Option<Origin>,
    text: Option<String>,
    label: String,
    related: Vec<Place>,
    hint: Option<String>,
}

#[derive(Debug, Serialize)]
struct Place {
    origin: Origin,
    text: String,
    label: String,
}

/// Findings as people read them, without colour: the text, a caret, and a hint each.
pub fn render(all: &Diagnostics, sources: &[Source]) -> String {
    let mut text = String::new();
    for finding in all.iter().take(SHOWN) {
        text += &one(finding, sources);
        text += "\n\n";
    }
    match all.0.len() {
        0 | 1 => text.truncate(text.len().saturating_sub(1)),
        n => {
            let shown = if n > SHOWN { format!(", the first {SHOWN} of them shown") } else { String::new() };
            let _ = writeln!(text, "{n} errors{shown}");
        }
    }
    text
}

fn one(finding: &Diagnostic, sources: &[Source]) -> String {
    let mut group = annotate_snippets::Group::with_title(Level::ERROR.primary_title(printable(&finding.message)));
    if let Some(span) = finding.span {
        let here = (AnnotationKind::Primary, span, finding.label.as_str());
        let others = finding.related.iter().map(|(span, label)| (AnnotationKind::Context, *span, label.as_str()));
        let mut places: Vec<_> = std::iter::once(here).chain(others).collect();
        // One excerpt a file, the one to blame first.
        while let Some((_, Span { file, .. }, _)) = places.first().copied() {
            let (these, rest): (Vec<_>, Vec<_>) = places.into_iter().partition(|(_, span, _)| span.file == file);
            places = rest;
            if let Some(source) = sources.get(file as usize) {
                group = group.element(excerpt(source, &these));
            }
        }
    }
    if let Some(hint) = &finding.hint {
        group = group.element(Level::HELP.with_name("hint").message(printable(hint)));
    }
    Renderer::plain().render(&[group])
}

/// Control characters of a file or its name, or of what others called something, must not reach a terminal.
pub fn printable(text: &str) -> String {
    let escaped = |one: char| if one.is_control() { one.escape_default().to_string() } else { one.to_string() };
    text.chars().map(escaped).collect()
}

/// The same of text of several lines.
pub fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// The lines of a file that places are in. Only these are handed on: the renderer walks all that it is given.
fn excerpt<'a>(
    source: &'a Source,
    places: &[(AnnotationKind, Span, &str)],
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let length = source.text.len();
    let head = if source.text.starts_with(BOM) { BOM.len_utf8() } else { 0 };
    let clamp = |at: u32| source.text.floor_char_boundary((at as usize).min(length)).max(head);
    let ranges = || places.iter().map(|(_, span, _)| clamp(span.start)..clamp(span.end));
    let low = ranges().map(|range| range.start).min().unwrap_or(0);
    let high = ranges().map(|range| range.end.max(range.start)).max().unwrap_or(length);
    let start = source.text[..low].rfind('\n').map_or(head, |at| at + 1);
    let end = source.text[high..].find('\n').map_or(length, |at| high + at);
    let start = source.text.ceil_char_boundary(start.max(low.saturating_sub(LINE)));
    let end = source.text.floor_char_boundary(end.min(high + LINE));
    let line = source.text[..start].matches('\n').count() + 1;
    let annotations = places.iter().map(|(kind, span, label)| {
        // Of a place of many lines the first one says enough.
        let (first, last) = (clamp(span.start), clamp(span.end).max(clamp(span.start)));
        let last = source.text[first..last].find(['\r', '\n']).map_or(last, |at| first + at);
        kind.span(first - start..last - start).label(printable(label))
    });
    let annotations: Vec<_> = annotations.collect();
    // The renderer would show half of what ends a line in some files; places stay where they are.
    let mut lines = source.text[start..end].replace("\r\n", " \n");
    if lines.ends_with('\r') {
        lines.replace_range(lines.len() - 1.., " ");
    }
    Snippet::source(lines).path(printable(&source.path)).line_start(line).annotations(annotations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(file: u32, start: u32, end: u32) -> Span {
        Span { file, start, end }
    }

    #[test]
    fn a_finding_shows_text_caret_and_hint() {
        let sources = [Source::new("a.toml", "one\ntwo = 1\n"), Source::new("b.toml", "two = 2\n")];
        let finding = Diagnostic::at(span(0, 4, 7), "`two` is there twice")
            .label("here")
            .related(span(1, 0, 3), "and here")
            .hint("leave one out");
        let shown = "\
error: `two` is there twice
 --> a.toml:2:1
  |
2 | two = 1
  | ^^^ here
  |
 ::: b.toml:1:1
  |
1 | two = 2
  | --- and here
  |
  = hint: leave one out
";
        assert_eq!(render(&vec![finding].into(), &sources), shown);
    }

    #[test]
    fn places_outside_of_the_text_and_control_characters_do_no_harm() {
        let sources = [Source::new("a.toml", format!("\u{1b}[31m = {}", "ü".repeat(10_000)))];
        for (start, end) in [(0, 0), (5, 2), (9, 10_000), (0, 30_000), (20_008, 20_008), (40_000, 50_000), (10, 11)] {
            let finding = Diagnostic::at(span(0, start, end), "\u{1b}[31m").label("\u{7}").hint("\u{1b}x");
            let shown = render(&vec![finding].into(), &sources);
            assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}'), "{shown:?}");
            assert!(shown.len() < 8 * LINE, "{}", shown.len());
        }
        let none = Diagnostic::at(span(7, 0, 1), "no such file");
        assert_eq!(render(&vec![none].into(), &sources), "error: no such file\n");
    }

    #[test]
    fn a_file_of_another_editor_is_shown_as_any_other() {
        let (plain, other) = ("one = 1\ntwo = 2\nthree = 3\n", "\u{feff}one = 1\r\ntwo = 2\r\nthree = 3\r\n");
        let shown = |text: &str| {
            let place = |word| {
                let start = text.find(word).expect("it is there") as u32;
                span(0, start, start + 3)
            };
            let finding = |word| Diagnostic::at(place(word), "wrong").label("here");
            let all = vec![finding("one").related(place("three"), "there"), finding("two")];
            render(&all.into(), &[Source::new("a.toml", text)]).replace(" \n", "\n")
        };
        assert_eq!(shown(other), shown(plain));
        for (start, end) in (0..35).flat_map(|start| (start..35).map(move |end| (start, end))) {
            let finding = Diagnostic::at(span(0, start, end), "wrong");
            let shown = render(&vec![finding].into(), &[Source::new("a.toml", other)]);
            assert_eq!(shown.contains("a.toml:1:1\n"), start < 4, "{start} {shown}");
            assert!(!shown.contains('\u{240d}'), "{shown}");
        }
    }

    #[test]
    fn what_is_like_a_word_may_mean_it_and_what_is_not_does_not() {
        let hint = |word| Diagnostic::new("no").nearest(word, ["routes", "gateway_priority", "ifname"]).hint;
        assert_eq!(hint("ifnam").as_deref(), Some("did you mean `ifname`?"));
        assert_eq!(hint("gateway").as_deref(), Some("did you mean `gateway_priority`?"));
        assert_eq!(hint("bogus").as_deref(), Some("there are `routes`, `gateway_priority`, `ifname`"));
    }

    #[test]
    fn many_findings_are_counted() {
        let all: Vec<_> = (0..60).map(|n| Diagnostic::new(format!("finding {n:02}"))).collect();
        let shown = render(&all.into(), &[]);
        assert!(shown.ends_with("60 errors, the first 50 of them shown\n"), "{shown}");
        assert_eq!(shown.matches("error: ").count(), 50);
    }
}
