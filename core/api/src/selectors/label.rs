//! Label selectors: `app in (a,b),!old,n>3` (upstream's `apimachinery/pkg/labels`), and those that stand in objects
//! (`matchLabels`, `matchExpressions`).

use std::fmt;

use serde_json::Value;

use super::SelectorError;
use crate::error::{aggregate, quoted};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{items_at, map_at, str_at};

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// One of the values.
    In,
    /// None of the values, or no such label.
    NotIn,
    /// Written `=` or `==`; the value.
    Equals,
    /// Written `!=`; not the value, or no such label.
    NotEquals,
    /// There is such a label.
    Exists,
    /// There is no such label.
    DoesNotExist,
    /// A greater whole number.
    GreaterThan,
    /// A smaller whole number.
    LessThan,
}

/// One condition on a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// The comparison.
    pub operator: Operator,
    /// With what; sorted, each once.
    pub values: Vec<String>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    nothing: bool,
    requirements: Vec<Requirement>,
}

impl Requirement {
    /// A checked condition (upstream's `NewRequirement`).
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, SelectorError> {
        let mut errors = FieldErrors::new();
        let key_problems = names::qualified_name(key);
        if !key_problems.is_empty() {
            errors.push(FieldError::invalid(&FieldPath::new("key"), key, key_problems.join("; ")));
        }
        let at = FieldPath::new("values");
        let mut count = |ok: bool, text: &str| {
            if !ok {
                errors.push(FieldError::invalid(&at, values.clone(), text));
            }
        };
        match operator {
            Operator::In | Operator::NotIn => {
                count(!values.is_empty(), "for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Equals | Operator::NotEquals => {
                count(values.len() == 1, "exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist => {
                count(values.is_empty(), "values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                count(values.len() == 1, "for 'Gt', 'Lt' operators, exactly one value is required");
                for (index, value) in values.iter().enumerate().filter(|(_, value)| value.parse::<i64>().is_err()) {
                    let text = "for 'Gt', 'Lt' operators, the value must be an integer";
                    errors.push(FieldError::invalid(&at.index(index), value.as_str(), text));
                }
            }
        }
        for (index, value) in values.iter().enumerate() {
            let problems = names::label_value(value);
            if !problems.is_empty() {
                errors.push(FieldError::invalid(&at.index(index).key(key), value.as_str(), problems.join("; ")));
            }
        }
        if !errors.is_empty() {
            return Err(SelectorError(aggregate(errors.iter().map(ToString::to_string))));
        }
        values.sort_unstable();
        values.dedup();
        Ok(Self { key: key.to_owned(), operator, values })
    }

    fn matches(&self, label: Option<&str>) -> bool {
        let has = |value: &str| self.values.iter().any(|known| known == value);
        let number = |text: &str| text.parse::<i64>().ok();
        let limit = || self.values.first().and_then(|value| number(value));
        match self.operator {
            Operator::In | Operator::Equals => label.is_some_and(has),
            Operator::NotIn | Operator::NotEquals => !label.is_some_and(has),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => label.and_then(number).zip(limit()).is_some_and(|(value, limit)| value > limit),
            Operator::LessThan => label.and_then(number).zip(limit()).is_some_and(|(value, limit)| value < limit),
        }
    }
}

impl LabelSelector {
    /// Selects all objects.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object.
    pub fn nothing() -> Self {
        Self { nothing: true, requirements: Vec::new() }
    }

    /// Reads the text of a selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let requirements = Parser::new(text).parse().map_err(SelectorError)?;
        Ok(Self::of(requirements))
    }

    /// Reads a `LabelSelector` object; null selects nothing, `{}` everything.
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in map_at(selector, "matchLabels").into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for expression in items_at(selector, "matchExpressions") {
            let operator = match str_at(expression, "operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("{} is not a valid label selector operator", quoted(other))));
                }
            };
            let values = items_at(expression, "values").iter().filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(Requirement::new(str_at(expression, "key"), operator, values)?);
        }
        Ok(Self::of(requirements))
    }

    /// Reads a plain map of labels, such as a service's selector; an empty one selects everything.
    pub fn from_map<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let requirement = |(key, value): (&str, &str)| Requirement {
            key: key.to_owned(),
            operator: Operator::Equals,
            values: vec![value.to_owned()],
        };
        Self::of(labels.into_iter().map(requirement).collect())
    }

    /// Selects what meets all of these.
    pub fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|one, other| one.key.cmp(&other.key));
        Self { nothing: false, requirements }
    }

    /// Whether it selects all objects.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }

    /// The same for an object's `metadata.labels`.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = map_at(object, "metadata.labels");
        self.matches(|key| labels?.get(key)?.as_str())
    }

    /// Its conditions, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let (key, values) = (&requirement.key, requirement.values.join(","));
            match requirement.operator {
                Operator::In => write!(out, "{comma}{key} in ({values})"),
                Operator::NotIn => write!(out, "{comma}{key} notin ({values})"),
                Operator::Equals => write!(out, "{comma}{key}={values}"),
                Operator::NotEquals => write!(out, "{comma}{key}!={values}"),
                Operator::Exists => write!(out, "{comma}{key}"),
                Operator::DoesNotExist => write!(out, "{comma}!{key}"),
                Operator::GreaterThan => write!(out, "{comma}{key}>{values}"),
                Operator::LessThan => write!(out, "{comma}{key}<{values}"),
            }?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    ClosedPar,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    OpenPar,
}

fn token_of(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::ClosedPar,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "in" => Token::In,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::OpenPar,
        _ => return None,
    })
}

fn scan(text: &str) -> Vec<(Token, String)> {
    let special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(space);
    while let Some(first) = rest.chars().next() {
        if special(first) {
            // The longest token wins; what follows a token without lengthening it is left for the next.
            let run = rest.find(|c| !special(c)).unwrap_or(rest.len());
            let mut best = None;
            for length in 1..=run {
                match token_of(&rest[..length]) {
                    Some(token) => best = Some((token, length)),
                    None if best.is_some() => break,
                    None => {}
                }
            }
            let (token, length) = best.unwrap_or((Token::Error, run));
            let literal = &rest[..length];
            let shown = if token == Token::Error {
                format!("error expected: keyword found '{literal}'")
            } else {
                literal.to_owned()
            };
            tokens.push((token, shown));
            rest = &rest[length..];
        } else {
            let end = rest.find(|c| special(c) || space(c)).unwrap_or(rest.len());
            let word = &rest[..end];
            tokens.push((token_of(word).unwrap_or(Token::Identifier), word.to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start_matches(space);
    }
    tokens.push((Token::End, String::new()));
    tokens
}

struct Parser {
    tokens: Vec<(Token, String)>,
    position: usize,
}

impl Parser {
    fn new(text: &str) -> Self {
        Self { tokens: scan(text), position: 0 }
    }

    fn raw(&self) -> (Token, String) {
        self.tokens.get(self.position).cloned().unwrap_or((Token::End, String::new()))
    }

    /// The next token where a value may stand: there, `in` and `notin` are words like any other.
    fn look(&self) -> (Token, String) {
        match self.raw() {
            (Token::In | Token::NotIn, literal) => (Token::Identifier, literal),
            other => other,
        }
    }

    fn take(&mut self) -> (Token, String) {
        let token = self.look();
        self.position += 1;
        token
    }

    fn parse(mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.look() {
                (Token::Identifier | Token::Not, _) => {
                    let requirement =
                        self.requirement().map_err(|problem| format!("unable to parse requirement: {problem}"))?;
                    requirements.push(requirement);
                    match self.take() {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => match self.look() {
                            (Token::Identifier | Token::Not, _) => {}
                            (_, literal) => return Err(format!("found '{literal}', expected: identifier after ','")),
                        },
                        (_, literal) => return Err(format!("found '{literal}', expected: ',' or 'end of string'")),
                    }
                }
                (Token::End, _) => return Ok(requirements),
                (_, literal) => return Err(format!("found '{literal}', expected: !, identifier, or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.take();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.take();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let problems = names::qualified_name(&key);
        if !problems.is_empty() {
            return Err(FieldError::invalid(&FieldPath::default(), key, problems.join("; ")).to_string());
        }
        let checked = |operator, values| Requirement::new(&key, operator, values).map_err(|error| error.0);
        if negated {
            return checked(Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.look().0, Token::End | Token::Comma) {
            return checked(Operator::Exists, Vec::new());
        }
        let (token, literal) = self.raw();
        self.position += 1;
        let operator = match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals | Token::DoubleEquals => Operator::Equals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => return Err(format!("found '{literal}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact_value()?,
        };
        checked(operator, values)
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let (token, literal) = self.take();
        if token != Token::OpenPar {
            return Err(format!("found '{literal}' expected: '('"));
        }
        let (token, literal) = self.look();
        match token {
            Token::Identifier | Token::Comma => {
                let values = self.list()?;
                if self.take().0 == Token::ClosedPar {
                    Ok(values)
                } else {
                    Err(format!("found '{literal}', expected: ')'"))
                }
            }
            Token::ClosedPar => {
                self.position += 1;
                Ok(vec![String::new()])
            }
            _ => Err(format!("found '{literal}', expected: ',', ')' or identifier")),
        }
    }

    /// Values between commas; where nothing stands, the empty one is meant.
    fn list(&mut self) -> Result<Vec<String>, String> {
        let mut values = Vec::new();
        loop {
            match self.take() {
                (Token::Identifier, literal) => {
                    values.push(literal);
                    match self.look() {
                        (Token::Comma, _) => {}
                        (Token::ClosedPar, _) => break,
                        (_, literal) => return Err(format!("found '{literal}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.look().0 {
                        Token::ClosedPar => {
                            values.push(String::new());
                            break;
                        }
                        Token::Comma => values.push(String::new()),
                        _ => {}
                    }
                }
                (_, literal) => return Err(format!("found '{literal}', expected: ',', or identifier")),
            }
        }
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    fn exact_value(&mut self) -> Result<Vec<String>, String> {
        if matches!(self.look().0, Token::End | Token::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.take() {
            (Token::Identifier, literal) => Ok(vec![literal]),
            (_, literal) => Err(format!("found '{literal}', expected: identifier")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_are_read_and_printed() {
        let cases = [
            ("", Ok("")),
            ("even=true", Ok("even=true")),
            ("x == a", Ok("x=a")),
            ("n in (2,1,2)", Ok("n in (1,2)")),
            ("n notin (1,2),even", Ok("even,n notin (1,2)")),
            ("!n", Ok("!n")),
            ("n in ()", Ok("n in ()")),
            ("n in (,a)", Ok("n in (,a)")),
            ("n>2,m<3", Ok("m<3,n>2")),
            ("in=in", Ok("in=in")),
            ("a=", Ok("a=")),
            ("a b", Err("unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt")),
            ("a=b,", Err("found '', expected: identifier after ','")),
            (",", Err("found ',', expected: !, identifier, or 'end of string'")),
            ("a in b", Err("unable to parse requirement: found 'b' expected: '('")),
            ("a in (b c)", Err("unable to parse requirement: found 'c', expected: ',' or ')'")),
            (
                "n>x",
                Err(
                    "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
                ),
            ),
            (
                "-a",
                Err(
                    "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ),
            ),
        ];
        for (text, expect) in cases {
            let found = LabelSelector::parse(text).map(|selector| selector.to_string()).map_err(|error| error.0);
            assert_eq!(found, expect.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn labels_are_compared() {
        let object = json!({"metadata": {"labels": {"n": "3", "app": "a"}}});
        let cases = [
            ("n=3", true),
            ("n!=3", false),
            ("x!=3", true),
            ("n in (3,4)", true),
            ("x notin (3)", true),
            ("n", true),
            ("!n", false),
            ("!x", true),
            ("n>2", true),
            ("n>3", false),
            ("n<4", true),
            ("app>1", false),
            ("n,app=b", false),
        ];
        for (text, expect) in cases {
            assert_eq!(LabelSelector::parse(text).expect(text).matches_object(&object), expect, "{text}");
        }
    }

    #[test]
    fn selectors_in_objects_are_read() {
        let selector = json!({"matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["x", "y"]}]});
        assert_eq!(LabelSelector::from_object(&selector).expect("a selector").to_string(), "a notin (x,y),b=1");
        assert!(LabelSelector::from_object(&json!({})).expect("a selector").is_everything());
        assert!(!LabelSelector::from_object(&Value::Null).expect("a selector").matches(|_| Some("x")));
        let bad = LabelSelector::from_object(&json!({"matchExpressions": [{"key": "a", "operator": "Gt"}]}));
        assert_eq!(bad.map_err(|error| error.0), Err("\"Gt\" is not a valid label selector operator".to_owned()));
    }
}
