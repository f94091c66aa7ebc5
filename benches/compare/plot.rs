//! Time against size, both logarithmic, as a self-contained SVG.

use std::collections::BTreeMap;
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
/// Around the axes: left, right for the names of the lines, top, bottom.
const MARGINS: [f64; 4] = [70.0, 130.0, 40.0, 45.0];
const COLOURS: [&str; 8] = ["#666666", "#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#bcbd22"];

/// The plot of some lines, each of points (containers, milliseconds) ascending in the first.
pub(super) fn svg(title: &str, lines: &BTreeMap<&str, Vec<(f64, f64)>>) -> String {
    let points = || lines.values().flatten();
    let [left, right] = decades(points().map(|(size, _)| *size));
    let [low, high] = decades(points().map(|(_, time)| *time));
    let [margin, names, top, bottom] = MARGINS;
    let x = |size: f64| margin + (size.log10() - left) / (right - left) * (WIDTH - margin - names);
    let y = |time: f64| HEIGHT - bottom - (time.log10() - low) / (high - low) * (HEIGHT - top - bottom);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{margin}\" \
         y=\"24\" font-size=\"15\">{title}: time against containers</text>\n"
    );
    for decade in low as i32..=high as i32 {
        let (at, label) = (y(10_f64.powi(decade)), seconds(decade));
        let _ = writeln!(
            svg,
            "<path d=\"M{margin} {at:.1}H{:.1}\" stroke=\"#dddddd\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{label}</text>",
            WIDTH - names,
            margin - 8.0,
            at + 4.0
        );
    }
    for decade in left as i32..=right as i32 {
        let at = x(10_f64.powi(decade));
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {top}V{:.1}\" stroke=\"#dddddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{}</text>",
            HEIGHT - bottom,
            HEIGHT - bottom + 20.0,
            10_u64.pow(decade.unsigned_abs())
        );
    }
    let mut labels = Vec::new();
    for ((name, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let path: Vec<String> = points.iter().map(|(size, time)| format!("{:.1},{:.1}", x(*size), y(*time))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (size, time) in points {
            let _ = writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x(*size), y(*time));
        }
        labels.extend(points.last().map(|(size, time)| (y(*time), x(*size), name, colour)));
    }
    // From top to bottom, none over another.
    labels.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
    let mut free = f64::MIN;
    for (at, x, name, colour) in labels {
        let at = at.max(free);
        free = at + 14.0;
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>", x + 8.0, at + 4.0);
    }
    svg + "</svg>\n"
}

/// Whole powers of ten around some values, at least one apart.
fn decades(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let logarithms: Vec<f64> = values.map(f64::log10).collect();
    let low = logarithms.iter().copied().fold(f64::INFINITY, f64::min).floor();
    let high = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil();
    if low < high { [low, high] } else { [low, low + 1.0] }
}

/// A power of ten milliseconds.
fn seconds(decade: i32) -> String {
    match decade {
        ..3 => format!("{} ms", 10_f64.powi(decade)),
        _ => format!("{} s", 10_f64.powi(decade - 3)),
    }
}
