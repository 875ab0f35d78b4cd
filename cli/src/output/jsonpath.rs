//! kubectl's JSONPath templates: text with `{expressions}`, `{range}` … `{end}`. Source: `k8s.io/client-go/util/jsonpath`
//! and the page "JSONPath Support" of kubectl's reference.

use serde_json::Value;

use super::format::go_json;
use crate::error::{CliError, CliResult};

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Text(String),
    Path(Path),
    Range(Path, Vec<Node>),
}

#[derive(Clone, Debug, PartialEq)]
struct Path {
    /// `$`, or `@` within a filter: the current object otherwise.
    from_root: bool,
    steps: Vec<Step>,
    text: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Wildcard,
    Recursive,
    Slice(Option<i64>, Option<i64>, Option<i64>),
    Index(i64),
    Union(Vec<Path>),
    Filter(Box<Filter>),
}

#[derive(Clone, Debug, PartialEq)]
struct Filter {
    left: Operand,
    operator: String,
    right: Operand,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Literal(Value),
    Path(Path),
    None,
}

fn refuse(template: &str, why: impl std::fmt::Display) -> CliError {
    CliError::usage(format!("error parsing jsonpath {template}, {why}"))
}

impl Template {
    /// Parses a template; one without braces is an expression, as kubectl's relaxed form has it.
    pub fn parse(text: &str) -> CliResult<Self> {
        let relaxed = if text.contains('{') {
            text.to_owned()
        } else {
            format!("{{{}{text}}}", if text.starts_with(['.', '[', '$', '@']) { "" } else { "." })
        };
        let mut parser = Parser { text: &relaxed, rest: &relaxed };
        let nodes = parser.nodes(false)?;
        Ok(Self { nodes })
    }

    /// The text for an object.
    pub fn render(&self, object: &Value) -> CliResult<String> {
        let mut out = String::new();
        render_nodes(&self.nodes, object, object, &mut out)?;
        Ok(out)
    }

    /// All values that the expressions find.
    pub fn values(&self, object: &Value) -> CliResult<Vec<Value>> {
        let mut found = Vec::new();
        for node in &self.nodes {
            if let Node::Path(path) = node {
                found.extend(path.find(object, object)?.into_iter().cloned());
            }
        }
        Ok(found)
    }

    /// The text of one expression (no braces), none when it finds nothing: for custom columns.
    pub fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        self.nodes
            .iter()
            .filter_map(|node| match node {
                Node::Path(path) => path.find(object, object).ok(),
                _ => None,
            })
            .flatten()
            .collect()
    }
}

fn render_nodes(nodes: &[Node], root: &Value, current: &Value, out: &mut String) -> CliResult {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(path) => {
                let found = path.find(root, current)?;
                let texts: Vec<String> = found.into_iter().map(show).collect();
                out.push_str(&texts.join(" "));
            }
            Node::Range(path, inner) => {
                for item in path.find(root, current)? {
                    render_nodes(inner, root, item, out)?;
                }
            }
        }
    }
    Ok(())
}

/// A value in a text: strings as they are, structures as JSON on one line.
pub fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Object(_) | Value::Array(_) => serde_json::to_string(value).unwrap_or_else(|_| go_json(value)),
        other => other.to_string(),
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn nodes(&mut self, in_range: bool) -> CliResult<Vec<Node>> {
        let mut nodes = Vec::new();
        loop {
            let Some(open) = self.rest.find('{') else {
                if !self.rest.is_empty() {
                    nodes.push(Node::Text(self.rest.to_owned()));
                    self.rest = "";
                }
                return if in_range { Err(refuse(self.text, "unterminated range")) } else { Ok(nodes) };
            };
            if open > 0 {
                nodes.push(Node::Text(self.rest[..open].to_owned()));
            }
            let inner_end =
                closing_brace(&self.rest[open..]).ok_or_else(|| refuse(self.text, "unclosed action"))? + open;
            let inner = self.rest[open + 1..inner_end].trim();
            self.rest = &self.rest[inner_end + 1..];
            if inner == "end" {
                return if in_range { Ok(nodes) } else { Err(refuse(self.text, "not in range, nothing to end")) };
            }
            if let Some(path) = inner.strip_prefix("range ") {
                let path = self.path(path.trim())?;
                nodes.push(Node::Range(path, self.nodes(true)?));
            } else if inner.starts_with('"') || inner.starts_with('\'') {
                for piece in split_quoted(inner) {
                    nodes.push(Node::Text(
                        unquote(piece).ok_or_else(|| refuse(self.text, "unterminated quoted string"))?,
                    ));
                }
            } else {
                for piece in split_paths(inner) {
                    nodes.push(Node::Path(self.path(piece)?));
                }
            }
        }
    }

    fn path(&self, text: &str) -> CliResult<Path> {
        parse_path(text).map_err(|why| refuse(self.text, why))
    }
}

/// The position of the brace that closes the one at 0; quotes and brackets are respected.
fn closing_brace(text: &str) -> Option<usize> {
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (index, character) in text.char_indices().skip(1) {
        match quote {
            _ if escaped => escaped = false,
            Some(_) if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if character == '"' || character == '\'' => quote = Some(character),
            None if character == '}' => return Some(index),
            None => {}
        }
    }
    None
}

fn split_quoted(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (index, character) in text.char_indices() {
        match quote {
            _ if escaped => escaped = false,
            Some(_) if character == '\\' => escaped = true,
            Some(open) if character == open => {
                quote = None;
                pieces.push(&text[start..=index]);
            }
            Some(_) => {}
            None if character == '"' || character == '\'' => {
                quote = Some(character);
                start = index;
            }
            None => {}
        }
    }
    if quote.is_some() {
        pieces.push(&text[start..]);
    }
    pieces
}

fn unquote(text: &str) -> Option<String> {
    let quote = text.chars().next()?;
    let inner = text[1..].strip_suffix(quote)?;
    let mut out = String::new();
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        out.push(match characters.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            other => other,
        });
    }
    Some(out)
}

/// Several expressions in one action stand one after another: `{.a}{.b}` or `{.a .b}`.
fn split_paths(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut depth = 0;
    let mut quote: Option<char> = None;
    for (index, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '[' | '(') => depth += 1,
            (None, ']' | ')') => depth -= 1,
            (None, ' ') if depth == 0 => {
                if !text[start..index].trim().is_empty() {
                    pieces.push(text[start..index].trim());
                }
                start = index + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        pieces.push(text[start..].trim());
    }
    pieces
}

fn parse_path(text: &str) -> Result<Path, String> {
    let (from_root, mut rest) = match text.chars().next() {
        Some('$') => (true, &text[1..]),
        Some('@') => (false, &text[1..]),
        _ => (false, text),
    };
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            steps.push(Step::Recursive);
            rest = after;
            if !rest.starts_with('[') && !rest.is_empty() {
                rest = field(rest, &mut steps)?;
            }
        } else if let Some(after) = rest.strip_prefix('.') {
            if after.is_empty() || after.starts_with('[') {
                rest = after;
                continue;
            }
            rest = field(after, &mut steps)?;
        } else if let Some(after) = rest.strip_prefix('[') {
            let end = closing_bracket(after).ok_or_else(|| "unterminated array".to_owned())?;
            bracket(&after[..end], &mut steps)?;
            rest = &after[end + 1..];
        } else if steps.is_empty() && !from_root {
            return Err(format!("unrecognized identifier {rest}"));
        } else {
            return Err(format!("unexpected {rest:?}"));
        }
    }
    Ok(Path { from_root, steps, text: text.to_owned() })
}

/// A field after a dot; dots in its name are escaped.
fn field<'a>(rest: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, String> {
    let mut name = String::new();
    let mut characters = rest.char_indices();
    let mut end = rest.len();
    while let Some((index, character)) = characters.next() {
        match character {
            '\\' => {
                if let Some((_, escaped)) = characters.next() {
                    name.push(escaped);
                }
            }
            '.' | '[' | ' ' | '|' | ',' | '=' | '!' | '<' | '>' | ')' => {
                end = index;
                break;
            }
            other => name.push(other),
        }
    }
    if name.is_empty() {
        return Err(format!("invalid path near {rest:?}"));
    }
    steps.push(if name == "*" { Step::Wildcard } else { Step::Field(name) });
    Ok(&rest[end..])
}

fn closing_bracket(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut quote: Option<char> = None;
    for (index, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(index),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(inner: &str, steps: &mut Vec<Step>) -> Result<(), String> {
    let inner = inner.trim();
    if inner == "*" {
        steps.push(Step::Wildcard);
        return Ok(());
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        steps.push(Step::Filter(Box::new(parse_filter(filter)?)));
        return Ok(());
    }
    let pieces = split_commas(inner);
    if pieces.len() > 1 {
        let paths = pieces.into_iter().map(|piece| {
            let piece = piece.trim();
            parse_path(&if piece.starts_with(['.', '$', '@']) { piece.to_owned() } else { format!("[{piece}]") })
        });
        steps.push(Step::Union(paths.collect::<Result<_, _>>()?));
        return Ok(());
    }
    if inner.starts_with(['\'', '"']) {
        let name = unquote(inner).ok_or_else(|| "unterminated quoted string".to_owned())?;
        steps.push(Step::Field(name));
        return Ok(());
    }
    let number = |text: &str| -> Result<Option<i64>, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| format!("invalid array index {text}"))
    };
    let parts: Vec<&str> = inner.split(':').collect();
    match parts.as_slice() {
        [one] => {
            let index = number(one)?.ok_or_else(|| "invalid array index ".to_owned())?;
            steps.push(Step::Index(index));
        }
        [from, to] => steps.push(Step::Slice(number(from)?, number(to)?, None)),
        [from, to, step] => steps.push(Step::Slice(number(from)?, number(to)?, number(step)?)),
        _ => return Err(format!("invalid array index {inner}")),
    }
    Ok(())
}

fn split_commas(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut quote: Option<char> = None;
    let mut depth = 0;
    for (index, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '[' | '(') => depth += 1,
            (None, ']' | ')') => depth -= 1,
            (None, ',') if depth == 0 => {
                pieces.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    pieces.push(&text[start..]);
    pieces
}

fn parse_filter(text: &str) -> Result<Filter, String> {
    let mut quote: Option<char> = None;
    for (index, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '=' | '!' | '<' | '>') => {
                let length = if text[index + 1..].starts_with('=') { 2 } else { 1 };
                let operator = &text[index..index + length];
                if !["==", "!=", "<", "<=", ">", ">="].contains(&operator) {
                    return Err(format!("unrecognized filter operator {operator}"));
                }
                return Ok(Filter {
                    left: operand(&text[..index])?,
                    operator: operator.to_owned(),
                    right: operand(&text[index + length..])?,
                });
            }
            _ => {}
        }
    }
    Ok(Filter { left: operand(text)?, operator: "exists".to_owned(), right: Operand::None })
}

fn operand(text: &str) -> Result<Operand, String> {
    let text = text.trim();
    if text.starts_with(['"', '\'']) {
        let literal = unquote(text).ok_or_else(|| "unterminated quoted string".to_owned())?;
        return Ok(Operand::Literal(Value::String(literal)));
    }
    if text.starts_with(['@', '$', '.', '[']) {
        return Ok(Operand::Path(parse_path(text)?));
    }
    let literal = serde_json::from_str(text).map_err(|_| format!("unrecognized operand {text}"))?;
    Ok(Operand::Literal(literal))
}

impl Path {
    fn find<'a>(&self, root: &'a Value, current: &'a Value) -> CliResult<Vec<&'a Value>> {
        let mut found = vec![if self.from_root { root } else { current }];
        for step in &self.steps {
            let mut next = Vec::new();
            for value in found {
                self.step(step, root, value, &mut next)?;
            }
            found = next;
        }
        Ok(found)
    }

    fn step<'a>(&self, step: &Step, root: &'a Value, value: &'a Value, next: &mut Vec<&'a Value>) -> CliResult {
        match step {
            Step::Field(name) => {
                // A list is asked through: its items' fields, as kubectl does with a list's items after `..`.
                match value {
                    Value::Array(items) => {
                        next.extend(items.iter().filter_map(|item| item.get(name)));
                    }
                    _ => next.extend(value.get(name)),
                }
            }
            Step::Wildcard => match value {
                Value::Array(items) => next.extend(items),
                Value::Object(map) => next.extend(map.values()),
                _ => {}
            },
            Step::Recursive => recurse(value, next),
            Step::Index(index) => {
                if let Value::Array(items) = value {
                    let position = if *index < 0 { *index + items.len() as i64 } else { *index };
                    let item = usize::try_from(position).ok().and_then(|position| items.get(position));
                    next.push(item.ok_or_else(|| {
                        CliError::usage(format!(
                            "error executing jsonpath \"{}\": Error executing template: array index out of bounds: index \
                             {index}, length {}",
                            self.text,
                            items.len()
                        ))
                    })?);
                }
            }
            Step::Slice(from, to, step) => {
                if let Value::Array(items) = value {
                    let length = items.len() as i64;
                    let absolute = |index: i64| if index < 0 { index + length } else { index }.clamp(0, length);
                    let (from, to) = (absolute(from.unwrap_or(0)), absolute(to.unwrap_or(length)));
                    let step = step.unwrap_or(1).max(1) as usize;
                    if from < to {
                        next.extend(items[from as usize..to as usize].iter().step_by(step));
                    }
                }
            }
            Step::Union(paths) => {
                for path in paths {
                    next.extend(path.find(root, value)?);
                }
            }
            Step::Filter(filter) => {
                if let Value::Array(items) = value {
                    for item in items {
                        if filter.holds(root, item)? {
                            next.push(item);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn recurse<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    found.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| recurse(item, found)),
        Value::Object(map) => map.values().for_each(|item| recurse(item, found)),
        _ => {}
    }
}

impl Filter {
    fn holds(&self, root: &Value, item: &Value) -> CliResult<bool> {
        let left = self.left.value(root, item)?;
        if self.operator == "exists" {
            return Ok(left.is_some());
        }
        let (Some(left), Some(right)) = (left, self.right.value(root, item)?) else { return Ok(false) };
        let ordering = match (&left, &right) {
            (Value::Number(left), Value::Number(right)) => left.as_f64().partial_cmp(&right.as_f64()),
            (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
            (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
            (Value::Bool(left), Value::String(right)) => Some(left.to_string().as_str().cmp(right)),
            (left, right) => (left == right).then_some(std::cmp::Ordering::Equal),
        };
        Ok(match self.operator.as_str() {
            "==" => ordering.is_some_and(|ordering| ordering.is_eq()),
            "!=" => !ordering.is_some_and(|ordering| ordering.is_eq()),
            "<" => ordering.is_some_and(|ordering| ordering.is_lt()),
            "<=" => ordering.is_some_and(|ordering| ordering.is_le()),
            ">" => ordering.is_some_and(|ordering| ordering.is_gt()),
            _ => ordering.is_some_and(|ordering| ordering.is_ge()),
        })
    }
}

impl Operand {
    fn value(&self, root: &Value, item: &Value) -> CliResult<Option<Value>> {
        Ok(match self {
            Self::Literal(value) => Some(value.clone()),
            Self::Path(path) => path.find(root, item)?.first().map(|value| (*value).clone()),
            Self::None => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates() {
        let object = json!({
            "kind": "List",
            "items": [
                {"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "x"}}, "status": {"n": 1, "ok": true}},
                {"metadata": {"name": "b"}, "status": {"n": 3, "addresses": [{"type": "IP", "address": "10.0.0.1"}]}},
            ],
        });
        let cases = [
            ("{.kind}", "List"),
            ("kind", "List"),
            (".kind", "List"),
            ("{$.kind}", "List"),
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[0].metadata.name}", "a"),
            ("{.items[-1].metadata.name}", "b"),
            ("{.items[0:1].metadata.name}", "a"),
            ("{..name}", "a b"),
            ("{.items[*]['metadata.name', 'status.n']}", ""),
            ("{.items[*].metadata['name']}", "a b"),
            ("{range .items[*]}{.metadata.name}{\"\\t\"}{.status.n}{\"\\n\"}{end}", "a\t1\nb\t3\n"),
            ("{.items[?(@.status.n>2)].metadata.name}", "b"),
            ("{.items[?(@.metadata.name==\"a\")].status.n}", "1"),
            ("{.items[?(@.status.ok)].metadata.name}", "a"),
            ("{.items[1].status.addresses[?(@.type=='IP')].address}", "10.0.0.1"),
            ("{.items[0].metadata.labels.app\\.kubernetes\\.io/name}", "x"),
            ("{.items[0].metadata.labels}", "{\"app.kubernetes.io/name\":\"x\"}"),
            ("a{.nothing}b", "ab"),
            ("{.kind}={.items[0].status.ok}", "List=true"),
        ];
        for (template, expected) in cases {
            let rendered = Template::parse(template).and_then(|template| template.render(&object));
            assert_eq!(rendered.expect(template), expected, "{template}");
        }
    }

    #[test]
    fn bad_templates_are_refused() {
        for template in ["{.a", "{range .a}", "{end}", "{.a[}", "{.a['b]}"] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
        let out_of_bounds = Template::parse("{.a[3]}").expect("a template").render(&json!({"a": [1]}));
        assert!(
            out_of_bounds.expect_err("an index").to_string().contains("array index out of bounds: index 3, length 1")
        );
    }
}
