//! Quantities such as `500m` and `1Gi`: parsed, compared and written as upstream's `resource.Quantity`.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// How a quantity was written, which decides how it is written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `12e6`.
    DecimalExponent,
    /// `12Mi`.
    BinarySi,
    /// `12M`.
    DecimalSi,
}

/// A fixed-point number. Values are kept in billionths; what is finer is rounded up, away from zero, as upstream does.
/// Beyond 1.7e29 it stays at the limit.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text isn't a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not of the form of a quantity at all.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Form,
    /// The number can't be read.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The suffix isn't known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl Quantity {
    /// Zero.
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// A whole number, written in decimal.
    pub fn from_i64(value: i64) -> Self {
        Self { nanos: i128::from(value) * NANO, format: Format::DecimalSi }
    }

    /// A number of thousandths, written in decimal.
    pub fn from_millis(value: i64) -> Self {
        Self { nanos: i128::from(value) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// A whole number, written in this format.
    pub fn with_format(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANO, format }
    }

    /// How it was written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The whole number at or above it (upstream's `Value`), within 64 bits.
    pub fn value(&self) -> i64 {
        clamp(round_up(self.nanos, NANO))
    }

    /// The number of thousandths at or above it (upstream's `MilliValue`), within 64 bits.
    pub fn milli_value(&self) -> i64 {
        clamp(round_up(self.nanos, NANO / 1000))
    }

    /// The sum; it keeps this one's format, or takes the other's when this one is zero.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// The difference, in this one's format.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_sub(other.nanos), format }
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Divides, rounding away from zero.
fn round_up(value: i128, unit: i128) -> i128 {
    let whole = value / unit;
    if value % unit == 0 { whole } else { whole + value.signum() }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
            None => return Err(ParseError::Form),
        };
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(number_end);
        let letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
        let digits = letters.strip_prefix(['-', '+']).unwrap_or(letters);
        if number.is_empty() || number.matches('.').count() > 1 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseError::Form);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(ParseError::Number);
        }
        let (unit, format) = unit_of(suffix)?;
        let mut nanos = match unit {
            Unit::Decimal(exponent) => scaled(whole, fraction, exponent + 9),
            Unit::Binary(shift) => scaled_binary(whole, fraction, shift),
        };
        let mut format = format;
        if format == Format::BinarySi {
            nanos = nanos.min(i128::from(i64::MAX) * NANO);
            if nanos > 0 && nanos < NANO {
                format = Format::DecimalSi;
            }
        }
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

enum Unit {
    Decimal(i32),
    Binary(u32),
}

fn unit_of(suffix: &str) -> Result<(Unit, Format), ParseError> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((Unit::Decimal(*exponent), Format::DecimalSi));
    }
    if let Some(index) = BINARY.iter().position(|name| *name == suffix) {
        return Ok((Unit::Binary(10 * (index as u32 + 1)), Format::BinarySi));
    }
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']) {
        let exponent: i32 = exponent.parse().map_err(|_| ParseError::Suffix)?;
        return Ok((Unit::Decimal(exponent), Format::DecimalExponent));
    }
    Err(ParseError::Suffix)
}

/// `whole.fraction × 10^exponent`, rounded up to a whole number and capped.
fn scaled(whole: &str, fraction: &str, exponent: i32) -> i128 {
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    let point = whole.len() as i64 + i64::from(exponent);
    let mut value: i128 = 0;
    for position in 0..point.max(0) {
        let digit = usize::try_from(position).ok().and_then(|index| digits.get(index)).map_or(0, |digit| digit - b'0');
        if value == 0 && digit == 0 && position >= digits.len() as i64 {
            break;
        }
        value = match value.checked_mul(10).and_then(|value| value.checked_add(i128::from(digit))) {
            Some(value) => value,
            None => return i128::MAX,
        };
    }
    let rest_from = usize::try_from(point.max(0)).unwrap_or(usize::MAX).min(digits.len());
    let finer = digits[rest_from..].iter().any(|digit| *digit != b'0');
    if finer { value.saturating_add(1) } else { value }
}

/// `whole.fraction × 2^shift` in billionths, rounded up and capped.
fn scaled_binary(whole: &str, fraction: &str, shift: u32) -> i128 {
    // Nine digits after the point, plus what the shift can lift above a billionth (2^60 < 10^19).
    let factor = 1i128 << shift;
    let whole_part = scaled(whole, "", 0).saturating_mul(factor).saturating_mul(NANO);
    let mut denominator: i128 = 1;
    let mut numerator: i128 = 0;
    for digit in fraction.bytes().take(18) {
        numerator = numerator * 10 + i128::from(digit - b'0');
        denominator *= 10;
    }
    let finer = fraction.bytes().skip(18).any(|digit| digit != b'0');
    let (quotient, remainder) = (numerator * factor / denominator, numerator * factor % denominator);
    let tail = round_up(remainder.saturating_mul(NANO), denominator);
    let part = quotient.saturating_mul(NANO).saturating_add(tail);
    whole_part.saturating_add(part).saturating_add(i128::from(finer && remainder == 0))
}

impl fmt::Display for Quantity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return out.write_str("0");
        }
        let kilo = 1024 * NANO;
        let binary = self.format == Format::BinarySi && self.nanos.abs() >= kilo && self.nanos % NANO == 0;
        if binary {
            let mut value = self.nanos / NANO;
            let mut suffix = "";
            for name in BINARY {
                if value % 1024 != 0 {
                    break;
                }
                value /= 1024;
                suffix = name;
            }
            return write!(out, "{value}{suffix}");
        }
        let (mut value, mut exponent) = (self.nanos, -9);
        while value % 1000 == 0 && exponent < 18 {
            value /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            while value % 1000 == 0 {
                value /= 1000;
                exponent += 3;
            }
            return if exponent == 0 { write!(out, "{value}") } else { write!(out, "{value}e{exponent}") };
        }
        let suffix = DECIMAL.iter().find(|(_, known)| *known == exponent).map_or("", |(name, _)| name);
        write!(out, "{value}{suffix}")
    }
}

/// The text that upstream would serve for this quantity.
pub fn canonical(text: &str) -> Result<Cow<'_, str>, ParseError> {
    let better = text.parse::<Quantity>()?.to_string();
    Ok(if better == text { Cow::Borrowed(text) } else { Cow::Owned(better) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_are_written_canonically() {
        let cases = [
            ("0", "0"),
            ("0Mi", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("100m", "100m"),
            ("1024Ki", "1Mi"),
            ("1024", "1024"),
            ("1Gi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("12e6", "12e6"),
            ("1e3", "1e3"),
            ("1E", "1E"),
            ("1.1n", "2n"),
            ("0.1n", "1n"),
            ("-1.1n", "-2n"),
            ("+1", "1"),
            ("-1Mi", "-1Mi"),
            ("1M", "1M"),
            ("10Ei", "9223372036854775807"),
            ("123456789", "123456789"),
            ("1.5m", "1500u"),
            ("0.0001Ki", "102400u"),
            ("100e-3", "100e-3"),
            ("1e-3", "1e-3"),
            ("12000e3", "12e6"),
        ];
        for (text, expect) in cases {
            assert_eq!(canonical(text).as_deref(), Ok(expect), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        let cases = [
            ("", ParseError::Form),
            ("a", ParseError::Form),
            ("1.2.3", ParseError::Form),
            ("1 Gi", ParseError::Form),
            ("1GB", ParseError::Form),
            ("1Gim", ParseError::Suffix),
            ("1K", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            (".", ParseError::Number),
            ("-", ParseError::Form),
        ];
        for (text, expect) in cases {
            assert_eq!(text.parse::<Quantity>(), Err(expect), "{text}");
        }
    }

    #[test]
    fn values_round_up() {
        let cases = [("100m", 1, 100), ("1.5", 2, 1500), ("1Ki", 1024, 1_024_000), ("-1.5", -2, -1500), ("1n", 1, 1)];
        for (text, value, millis) in cases {
            let quantity: Quantity = text.parse().expect("a quantity");
            assert_eq!((quantity.value(), quantity.milli_value()), (value, millis), "{text}");
        }
    }

    proptest! {
        #[test]
        fn canonical_text_reads_back_as_itself(whole in 0u64..10_000_000, fraction in 0u32..1000, suffix in prop::sample::select(vec!["", "n", "u", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "e-3"])) {
            let text = format!("{whole}.{fraction:03}{suffix}");
            let quantity: Quantity = text.parse().expect("a quantity");
            let written = quantity.to_string();
            let again: Quantity = written.parse().expect("its own text");
            prop_assert_eq!(quantity, again);
            prop_assert_eq!(again.to_string(), written);
        }

        #[test]
        fn order_is_that_of_the_numbers(a in -1_000_000i64..1_000_000, b in -1_000_000i64..1_000_000) {
            let (left, right): (Quantity, Quantity) = (format!("{a}m").parse().expect("a"), format!("{b}m").parse().expect("b"));
            prop_assert_eq!(left.cmp(&right), a.cmp(&b));
        }
    }
}
