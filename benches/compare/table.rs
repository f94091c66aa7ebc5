//! Medians, and ratios of runs side by side, as tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::measure::{Figures, Phase, Run};
use super::plot;
use super::tools::Tool;

/// Who was measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Subject {
    pub(super) tool: Tool,
    pub(super) size: usize,
}

/// All runs, by who and in which round.
#[derive(Default, Debug)]
pub(super) struct Results {
    runs: BTreeMap<Subject, BTreeMap<usize, Run>>,
}

impl Results {
    pub(super) fn add(&mut self, subject: Subject, round: usize, run: Run) {
        self.runs.entry(subject).or_default().insert(round, run);
    }

    /// The runs of a file; none if there is no such file.
    pub(super) fn read(file: &Path) -> Self {
        let mut results = Self::default();
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            // Now, and not after the last round.
            text => text.expect("the file of results can be read"),
        };
        for line in text.lines() {
            let (tool, size, round, run): (String, usize, usize, Run) =
                serde_json::from_str(line).expect("a line that this program wrote");
            if let Some(tool) = Tool::named(&tool) {
                results.add(Subject { tool, size }, round, run);
            }
        }
        results
    }

    /// Writes all runs to a file.
    pub(super) fn keep(&self, file: &Path) {
        let runs =
            self.runs.iter().flat_map(|(subject, rounds)| rounds.iter().map(move |(round, run)| (subject, round, run)));
        let line = |(subject, round, run): (&Subject, _, _)| {
            serde_json::to_string(&(subject.tool.name(), subject.size, round, run)).expect("names and numbers") + "\n"
        };
        fs::write(file, runs.map(line).collect::<String>()).expect("the file can be written");
    }

    /// A round that no run is of yet.
    pub(super) fn rounds(&self) -> usize {
        self.runs.values().filter_map(|rounds| rounds.last_key_value()).map(|(round, _)| round + 1).max().unwrap_or(0)
    }

    /// A table for each phase, one of processor time and one of memory.
    pub(super) fn text(&self) -> String {
        let mut text = machine();
        for phase in Phase::ALL {
            text += &self.table(phase.title(), |subject| {
                let wall = self.median(subject, phase, |figures| figures.wall)?;
                Some(with_ratio(milliseconds(wall), self.ratio(subject, phase, |figures| figures.wall)))
            });
        }
        text += &self.table(
            "Power with which the set-up's time, and its processor time, grow from the size before",
            |subject| {
                let [wall, cpu] = [|figures: &Figures| figures.wall, |figures: &Figures| figures.cpu]
                    .map(|figure| self.growth(subject, Phase::Up, figure));
                Some(if subject.tool.is_daemon() {
                    format!("{:.2}", wall?)
                } else {
                    format!("{:.2}, {:.2}", wall?, cpu?)
                })
            },
        );
        text += &self.table("Processor time of the set-up", |subject| {
            if subject.tool.is_daemon() {
                return None;
            }
            let cpu = self.median(subject, Phase::Up, |figures| figures.cpu)?;
            Some(with_ratio(milliseconds(cpu), self.ratio(subject, Phase::Up, |figures| figures.cpu)))
        });
        text += &self.table(
            "Of that, the time outside of the kernel (the mean: the kernel tells it by ticks)",
            |subject| {
                if subject.tool.is_daemon() {
                    return None;
                }
                let runs = self.runs.get(subject)?.values().filter_map(|run| run.get(&Phase::Up)?.user);
                let times: Vec<f64> = runs.collect();
                (!times.is_empty()).then(|| milliseconds(times.iter().sum::<f64>() / times.len() as f64))
            },
        );
        text += &self.table("Largest process of the set-up", |subject| {
            if subject.tool.is_daemon() {
                return None;
            }
            self.median(subject, Phase::Up, |figures| figures.peak).map(|peak| format!("{peak:.1} MiB"))
        });
        text += &self.table("Packets delivered after the set-up, until it is quiet", |subject| {
            self.median(subject, Phase::Up, |figures| figures.packets).map(|packets| format!("{packets:.0}"))
        });
        text
    }

    /// Writes tables and plots into the docs.
    pub(super) fn write(&self) {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        for (phase, name) in [(Phase::Up, "performance-up.svg"), (Phase::Down, "performance-down.svg")] {
            let mut lines = BTreeMap::<&str, Vec<(f64, f64)>>::new();
            for subject in self.runs.keys() {
                if let Some(wall) = self.median(subject, phase, |figures| figures.wall) {
                    lines.entry(subject.tool.name()).or_default().push((subject.size as f64, wall));
                }
            }
            fs::write(docs.join(name), plot::svg(phase.title(), &lines)).expect("docs can be written");
        }
        put("--write", &self.text());
    }

    fn table(&self, title: &str, cell: impl Fn(&Subject) -> Option<String>) -> String {
        let sizes: BTreeSet<usize> = self.runs.keys().map(|subject| subject.size).collect();
        let mut text = format!("**{title}**\n\n| containers |");
        for size in &sizes {
            let _ = write!(text, " {size} |");
        }
        text += &format!("\n| --- |{}\n", " ---: |".repeat(sizes.len()));
        for tool in Tool::ALL {
            let cells: Vec<Option<String>> = sizes.iter().map(|size| cell(&Subject { tool, size: *size })).collect();
            if cells.iter().any(Option::is_some) {
                let _ = write!(text, "| {} |", tool.name());
                for cell in cells {
                    let _ = write!(text, " {} |", cell.unwrap_or_default());
                }
                text.push('\n');
            }
        }
        text.push('\n');
        text
    }

    pub(super) fn median(&self, subject: &Subject, phase: Phase, figure: impl Fn(&Figures) -> f64) -> Option<f64> {
        median(self.runs.get(subject)?.values().filter_map(|run| run.get(&phase)).map(figure).collect())
    }

    /// The power of growth from the next smaller size that the tool was measured at: 1 is linear.
    fn growth(&self, subject: &Subject, phase: Phase, figure: impl Fn(&Figures) -> f64) -> Option<f64> {
        let smaller = Subject { size: 0, ..*subject }..*subject;
        let (before, _) = self.runs.range(smaller).next_back()?;
        let times = self.median(subject, phase, &figure)? / self.median(before, phase, &figure)?;
        Some(times.ln() / (subject.size as f64 / before.size as f64).ln())
    }

    /// Median of the ratios to the base's run of the same round; none for a base itself.
    fn ratio(&self, subject: &Subject, phase: Phase, figure: impl Fn(&Figures) -> f64) -> Option<f64> {
        let base = Subject { tool: subject.tool.base(), size: subject.size };
        let (runs, bases) = (self.runs.get(subject)?, self.runs.get(&base)?);
        let pairs = runs.iter().filter_map(|(round, run)| Some((run.get(&phase)?, bases.get(round)?.get(&phase)?)));
        (base != *subject).then(|| median(pairs.map(|(run, base)| figure(run) / figure(base)).collect())).flatten()
    }
}

/// Writes what these options tell to its place on the page.
pub(super) fn put(options: &str, text: &str) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let [begin, end] = [&format!("<!-- begin: cargo bench --bench compare -- {options} -->"), "<!-- end -->"];
    let there = fs::read_to_string(&page).expect("the page is there");
    let (before, rest) = there.split_once(begin).expect("the first mark is on the page");
    let (_, after) = rest.split_once(end).expect("the second mark is on the page");
    fs::write(&page, format!("{before}{begin}\n\n{text}{end}{after}")).expect("docs can be written");
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len().checked_sub(1)? / 2;
    Some(f64::midpoint(values[middle], values[values.len() / 2]))
}

pub(super) fn milliseconds(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.1} ms"),
        10.0..10_000.0 => format!("{value:.0} ms"),
        _ => format!("{:.1} s", value / 1e3),
    }
}

fn with_ratio(value: String, ratio: Option<f64>) -> String {
    match ratio {
        None => value,
        Some(ratio @ 10.0..) => format!("{value} (×{ratio:.0})"),
        Some(ratio) => format!("{value} (×{ratio:.2})"),
    }
}

/// The machine in general terms.
pub(super) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let numbers: String = kernel.chars().take_while(|letter| letter.is_ascii_digit() || *letter == '.').collect();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = memory.split_ascii_whitespace().nth(1).and_then(|number| number.parse::<f64>().ok());
    let memory = kibibytes.unwrap_or_default() / f64::from(1 << 20);
    format!("Measured on {cores} cores with {memory:.0} GiB, Linux {numbers}.\n\n")
}
