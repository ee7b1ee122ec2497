//! Sizes and durations as people write them.
use std::fmt::Write as _;
use std::time::Duration;

/// Reads `4096`, `64KiB`, `16 MiB`, `1GiB`, `2TiB` as bytes.
///
/// ```
/// # use straightway::config::units::size;
/// assert_eq!(size("1GiB"), Ok(1 << 30));
/// assert!(size("1GB").is_err());
/// ```
pub fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 6] =
        [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
    let (number, unit) = split(text);
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let bytes = number
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor));
    bytes.ok_or_else(|| format!("{text:?} is not a size; write a whole number of bytes, KiB, MiB, GiB or TiB, such as 64MiB"))
}

/// Reads `250ms`, `30s`, `5m`, `12h`, `7d`.
///
/// ```
/// # use straightway::config::units::duration;
/// # use std::time::Duration;
/// assert_eq!(duration("5m"), Ok(Duration::from_mins(5)));
/// assert!(duration("5").is_err());
/// ```
pub fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 5] =
        [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let (number, unit) = split(text);
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    // Zero needs no unit.
    let factor = factor.or((number == "0" && unit.is_empty()).then_some(0));
    let ms = number
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor));
    ms.map(Duration::from_millis).ok_or_else(|| {
        format!("{text:?} is not a duration; write a whole number of ms, s, m, h or d, such as 30s")
    })
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// Writes bytes with three significant digits and a binary unit.
///
/// ```
/// # use straightway::config::units::human_bytes;
/// assert_eq!(human_bytes(1536), "1.50 KiB");
/// assert_eq!(human_bytes(999), "999 B");
/// ```
pub fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let decimals = match value {
        _ if unit == "B" || value >= 100.0 => 0,
        _ if value >= 10.0 => 1,
        _ => 2,
    };
    let mut text = String::new();
    // Writing to a string does not fail.
    let _infallible = write!(text, "{value:.decimals$} {unit}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sizes_read_what_they_mean(number in 0..1u64 << 20, unit in 0..4usize) {
            let names = ["", "KiB", "MiB", "GiB"];
            prop_assert_eq!(size(&format!("{number}{}", names[unit])), Ok(number << (10 * unit)));
            prop_assert_eq!(size(&format!(" {number} {} ", names[unit])), Ok(number << (10 * unit)));
        }

        #[test]
        fn anything_else_is_refused_and_named(text in "[^0-9 ][a-zA-Z]{0,5}") {
            let quoted = format!("{text:?}");
            prop_assert!(size(&text).is_err_and(|message| message.contains(&quoted)));
            prop_assert!(duration(&text).is_err());
        }
    }

    #[test]
    fn overflow_is_an_error() {
        assert!(size("99999999999TiB").is_err());
        assert!(duration("99999999999999999999s").is_err());
        assert_eq!(duration("0"), Ok(Duration::ZERO));
    }
}
