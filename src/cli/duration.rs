//! Times as people write them.

use std::time::Duration;

/// Longer than a year is a mistake.
const LONGEST_S: u64 = 366 * 24 * 3600;

/// Reads `250ms`, `90s`, `10m`, `2h` or `1d`; a number alone is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| format!("`{text}` is no time: write 90s, 10m or 250ms"))?;
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        unit => return Err(format!("`{unit}` is no unit of time: ms, s, m, h, d")),
    };
    let time = number.checked_mul(unit_ms).map(Duration::from_millis);
    time.filter(|time| time.as_secs() <= LONGEST_S).ok_or_else(|| format!("`{text}` is longer than a year"))
}

/// How long a confirmation may be waited for.
pub(super) fn to_confirm(text: &str) -> Result<Duration, String> {
    let in_range = |time: &Duration| (Duration::from_secs(1)..=Duration::from_hours(24)).contains(time);
    Some(duration(text)?).filter(in_range).ok_or_else(|| format!("`{text}` is not from a second to a day"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_or_refused() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_mins(10)));
        for wrong in ["", "s", "-1s", "1.5s", "10 m", "10M", "99999999999999999999s", "367d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(to_confirm("1d"), Ok(Duration::from_hours(24)));
        for wrong in ["0", "999ms", "25h", "2d", "soon"] {
            assert!(to_confirm(wrong).is_err(), "{wrong}");
        }
    }
}
