//! Go's words for JSON that can't be read: a scanner with the states of `encoding/json`.

/// Go's message for the first thing that is no JSON; `None` when all of it is.
pub(super) fn syntax_error(body: &[u8]) -> Option<String> {
    let mut scanner = Scanner { body, at: 0 };
    scanner.document().err()
}

struct Scanner<'a> {
    body: &'a [u8],
    at: usize,
}

/// How deep Go reads.
const DEPTH_MAX: usize = 10_000;

impl Scanner<'_> {
    fn skip_space(&mut self) {
        while matches!(self.body.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn next(&mut self) -> Result<u8, String> {
        let byte = self.body.get(self.at).copied().ok_or_else(|| "unexpected end of JSON input".to_owned())?;
        self.at += 1;
        Ok(byte)
    }

    fn invalid<T>(&self, byte: u8, context: &str) -> Result<T, String> {
        Err(format!("invalid character {} {context}", quote_byte(byte)))
    }

    fn document(&mut self) -> Result<(), String> {
        self.value()?;
        self.skip_space();
        match self.body.get(self.at) {
            None => Ok(()),
            Some(&byte) => self.invalid(byte, "after top-level value"),
        }
    }

    /// One value. Open objects and lists are kept on a stack of our own: depth costs no recursion.
    fn value(&mut self) -> Result<(), String> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.skip_space();
            match self.next()? {
                b'{' => {
                    self.skip_space();
                    match self.next()? {
                        b'}' => {}
                        b'"' => {
                            self.string()?;
                            self.colon()?;
                            open.push(b'{');
                            self.check_depth(&open)?;
                            continue;
                        }
                        byte => return self.invalid(byte, "looking for beginning of object key string"),
                    }
                }
                b'[' => {
                    self.skip_space();
                    if self.body.get(self.at) == Some(&b']') {
                        self.at += 1;
                    } else {
                        open.push(b'[');
                        self.check_depth(&open)?;
                        continue;
                    }
                }
                b'"' => self.string()?,
                b'-' => {
                    let byte = self.next()?;
                    if !byte.is_ascii_digit() {
                        return self.invalid(byte, "in numeric literal");
                    }
                    self.number(byte)?;
                }
                byte if byte.is_ascii_digit() => self.number(byte)?,
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                byte => return self.invalid(byte, "looking for beginning of value"),
            }
            // A value is done: close what ends here, or go on behind a comma.
            loop {
                let Some(container) = open.last() else { return Ok(()) };
                self.skip_space();
                match (container, self.next()?) {
                    (b'{', b',') => {
                        self.skip_space();
                        match self.next()? {
                            b'"' => self.string()?,
                            byte => return self.invalid(byte, "looking for beginning of object key string"),
                        }
                        self.colon()?;
                        break;
                    }
                    (b'[', b',') => break,
                    (b'{', b'}') | (b'[', b']') => {
                        open.pop();
                    }
                    (b'{', byte) => return self.invalid(byte, "after object key:value pair"),
                    (_, byte) => return self.invalid(byte, "after array element"),
                }
            }
        }
    }

    fn check_depth(&self, open: &[u8]) -> Result<(), String> {
        if open.len() > DEPTH_MAX { Err("exceeded max depth".to_owned()) } else { Ok(()) }
    }

    fn colon(&mut self) -> Result<(), String> {
        self.skip_space();
        match self.next()? {
            b':' => Ok(()),
            byte => self.invalid(byte, "after object key"),
        }
    }

    fn string(&mut self) -> Result<(), String> {
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => match self.next()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let byte = self.next()?;
                            if !byte.is_ascii_hexdigit() {
                                return self.invalid(byte, "in \\u hexadecimal character escape");
                            }
                        }
                    }
                    byte => return self.invalid(byte, "in string escape code"),
                },
                byte if byte < 0x20 => return self.invalid(byte, "in string literal"),
                _ => {}
            }
        }
    }

    fn number(&mut self, first: u8) -> Result<(), String> {
        if first != b'0' {
            self.digits();
        }
        if self.body.get(self.at) == Some(&b'.') {
            self.at += 1;
            let byte = self.next()?;
            if !byte.is_ascii_digit() {
                return self.invalid(byte, "after decimal point in numeric literal");
            }
            self.digits();
        }
        if matches!(self.body.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            let mut byte = self.next()?;
            if matches!(byte, b'+' | b'-') {
                byte = self.next()?;
            }
            if !byte.is_ascii_digit() {
                return self.invalid(byte, "in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.body.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for expect in word.bytes().skip(1) {
            let byte = self.next()?;
            if byte != expect {
                return self.invalid(byte, &format!("in literal {word} (expecting {})", quote_byte(expect)));
            }
        }
        Ok(())
    }
}

/// Go's `quoteChar`: it looks at bytes, so what isn't ASCII shows as a Latin-1 character.
fn quote_byte(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        0x80..=0x9f => format!("'\\u{byte:04x}'"),
        0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        _ => {
            let text = crate::error::quoted(&char::from(byte).to_string());
            format!("'{}'", &text[1..text.len() - 1])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_gos() {
        let cases = [
            ("{}", None),
            ("[1, {\"a\": [true, null, -1.5e+3, \"\\u00e4\"]}]", None),
            ("", Some("unexpected end of JSON input")),
            ("{", Some("unexpected end of JSON input")),
            ("{nope", Some("invalid character 'n' looking for beginning of object key string")),
            ("{\"a\" 1}", Some("invalid character '1' after object key")),
            ("{\"a\":1 \"b\"}", Some("invalid character '\"' after object key:value pair")),
            ("[1 2]", Some("invalid character '2' after array element")),
            ("{} x", Some("invalid character 'x' after top-level value")),
            ("nul!", Some("invalid character '!' in literal null (expecting 'l')")),
            ("01", Some("invalid character '1' after top-level value")),
            ("1.x", Some("invalid character 'x' after decimal point in numeric literal")),
            ("\"\n\"", Some("invalid character '\\n' in string literal")),
            ("metadata: x", Some("invalid character 'm' looking for beginning of value")),
            ("\u{81}", Some("invalid character 'Â' looking for beginning of value")),
        ];
        for (body, expect) in cases {
            assert_eq!(syntax_error(body.as_bytes()).as_deref(), expect, "{body}");
        }
        assert_eq!(
            syntax_error(b"\x81").as_deref(),
            Some("invalid character '\\u0081' looking for beginning of value")
        );
    }
}
