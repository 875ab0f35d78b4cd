//! Field selectors: `status.phase!=Running,spec.nodeName=a` (upstream's `apimachinery/pkg/fields`).

use std::fmt;

use super::SelectorError;

/// One condition on a field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldTerm {
    /// The field's path.
    pub field: String,
    /// The value it must have, or must not have.
    pub value: String,
    /// Whether it must not have it.
    pub negated: bool,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Selects all objects.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Reads a selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let terms = parts
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(|part| parse_term(text, part))
            .collect::<Result<_, _>>()?;
        Ok(Self { terms })
    }

    /// Whether it selects all objects.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object with these fields is selected; an absent field counts as empty.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|term| (field(&term.field).unwrap_or_default() == term.value) != term.negated)
    }

    /// The value that a field must have, if the selector demands one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.field == field && !term.negated).map(|term| term.value.as_str())
    }

    /// The names of the fields it looks at.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|term| term.field.as_str())
    }

    /// Its conditions.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let sign = if term.negated { "!=" } else { "=" };
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(out, "{comma}{}{sign}{value}", term.field)?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_term(selector: &str, part: &str) -> Result<FieldTerm, SelectorError> {
    for (index, _) in part.char_indices() {
        let rest = &part[index..];
        for sign in ["!=", "==", "="] {
            if let Some(value) = rest.strip_prefix(sign) {
                let value = unescape(value)?;
                return Ok(FieldTerm { field: part[..index].to_owned(), value, negated: sign == "!=" });
            }
        }
    }
    Err(SelectorError(format!("invalid selector: '{selector}'; can't understand '{part}'")))
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let bad = |sequence: &str| SelectorError(format!("invalid field selector: invalid escape sequence: {sequence}"));
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(bad(&format!("\\{c}"))),
                None => return Err(bad("\\")),
            },
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {}",
                    c as u32
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read_and_printed() {
        let cases = [
            ("", Ok("")),
            ("b=1,a!=2", Ok("a!=2,b=1")),
            ("a==x\\,y", Ok("a=x\\,y")),
            ("x", Err("invalid selector: 'x'; can't understand 'x'")),
            ("a=b=c", Err("invalid field selector: unescaped character in value: 61")),
            ("a=\\x", Err("invalid field selector: invalid escape sequence: \\x")),
        ];
        for (text, expect) in cases {
            let found = FieldSelector::parse(text).map(|selector| selector.to_string()).map_err(|error| error.0);
            assert_eq!(found, expect.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn all_terms_must_hold() {
        let selector = FieldSelector::parse("a=1,b!=2").expect("a selector");
        let fields =
            |a: &'static str, b: Option<&'static str>| move |field: &str| if field == "a" { Some(a) } else { b };
        assert!(selector.matches(fields("1", None)));
        assert!(!selector.matches(fields("1", Some("2"))));
        assert!(!selector.matches(fields("2", None)));
        assert_eq!((selector.exact("a"), selector.exact("b")), (Some("1"), None));
    }
}
