//! The static token file, in kube-apiserver's format: `token,user,uid[,"group1,group2"]` per line.

use std::collections::HashMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::AuthError;
use super::user::UserInfo;

/// A file may be this long, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Tokens and their users.
#[derive(Clone, Debug, Default)]
pub struct StaticTokens {
    // By digest: how long a look-up takes says nothing of the tokens.
    by_digest: HashMap<[u8; 32], UserInfo>,
}

impl StaticTokens {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, AuthError> {
        let name = path.display().to_string();
        let failed = |source| AuthError::ReadTokenFile { path: name.clone(), source };
        let length = std::fs::metadata(path).map_err(failed)?.len();
        if length > FILE_BYTES_MAX {
            return Err(AuthError::TokenFile {
                path: name,
                line: 1,
                reason: format!("the file is longer than {FILE_BYTES_MAX} bytes"),
            });
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        Self::parse(&name, &text)
    }

    /// Reads a text; `path` names it in errors. The last of several lines with one token wins, as upstream has it.
    pub fn parse(path: &str, text: &str) -> Result<Self, AuthError> {
        let error = |line: usize, reason: String| AuthError::TokenFile { path: path.to_owned(), line, reason };
        let mut by_digest = HashMap::new();
        for record in records(text) {
            let (line, fields) = record.map_err(|(line, reason)| error(line, reason))?;
            let [token, user, uid, rest @ ..] = fields.as_slice() else {
                return Err(error(
                    line,
                    format!("must have at least 3 columns (token, user name, user uid), found {}", fields.len()),
                ));
            };
            if token.is_empty() {
                return Err(error(line, "the token is empty".to_owned()));
            }
            if user.is_empty() {
                return Err(error(line, "the user name is empty".to_owned()));
            }
            let groups = rest.first().map(String::as_str).unwrap_or_default();
            let groups = if groups.is_empty() { Vec::new() } else { groups.split(',').map(str::to_owned).collect() };
            let user = UserInfo { name: user.clone(), uid: uid.clone(), groups, ..UserInfo::default() };
            by_digest.insert(digest(token), user);
        }
        Ok(Self { by_digest })
    }

    /// The user of a token.
    pub fn lookup(&self, token: &str) -> Option<&UserInfo> {
        self.by_digest.get(&digest(token))
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.by_digest.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

type Record = (usize, Vec<String>);

/// The records of a CSV text by the rules of Go's `encoding/csv`: fields may be quoted and then hold commas, line
/// ends and doubled quotes; empty lines don't count. Each with the number of its first line.
fn records(text: &str) -> impl Iterator<Item = Result<Record, (usize, String)>> {
    let mut rest = text;
    let mut line = 1;
    let mut failed = false;
    std::iter::from_fn(move || {
        while let Some(after) = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n')) {
            rest = after;
            line += 1;
        }
        if rest.is_empty() || failed {
            return None;
        }
        let first = line;
        let mut fields = Vec::new();
        loop {
            match field(rest) {
                Err(reason) => {
                    failed = true;
                    return Some(Err((first, reason.to_owned())));
                }
                Ok((value, after, more)) => {
                    line += rest[..rest.len() - after.len()].matches('\n').count();
                    fields.push(value);
                    rest = after;
                    if !more {
                        return Some(Ok((first, fields)));
                    }
                }
            }
        }
    })
}

/// A field, what follows it, and whether another field of the same record follows.
fn field(text: &str) -> Result<(String, &str, bool), &'static str> {
    let Some(mut quoted) = text.strip_prefix('"') else {
        let end = text.find([',', '\n']).unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        let more = after.starts_with(',');
        let value = if more { value } else { value.strip_suffix('\r').unwrap_or(value) };
        if value.contains('"') {
            return Err("a quote stands in a field that isn't quoted");
        }
        return Ok((value.to_owned(), after.get(1..).unwrap_or_default(), more));
    };
    let mut value = String::new();
    loop {
        let (part, after) = quoted.split_once('"').ok_or("a quoted field has no end")?;
        value.push_str(part);
        if let Some(after) = after.strip_prefix('"') {
            value.push('"');
            quoted = after;
            continue;
        }
        if let Some(after) = after.strip_prefix(',') {
            return Ok((value, after, true));
        }
        let after = after.strip_prefix('\r').unwrap_or(after);
        return match after.strip_prefix('\n') {
            Some(after) => Ok((value, after, false)),
            None if after.is_empty() => Ok((value, after, false)),
            None => Err("something follows the end of a quoted field"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, uid: &str, groups: &[&str]) -> UserInfo {
        UserInfo { uid: uid.to_owned(), ..UserInfo::new(name, groups.iter().copied()) }
    }

    #[test]
    fn tokens_have_users() {
        let text = "t1,ann,1\r\n\nt2,bob,2,\"system:masters,dev\"\n\"t,3\",\"c \"\"d\"\"\",3,one\nt4,eve,4,\"\",more\nt1,anna,9\n";
        let tokens = StaticTokens::parse("tokens.csv", text).expect("tokens");
        let cases = [
            ("t1", Some(user("anna", "9", &[]))),
            ("t2", Some(user("bob", "2", &["system:masters", "dev"]))),
            ("t,3", Some(user("c \"d\"", "3", &["one"]))),
            ("t4", Some(user("eve", "4", &[]))),
            ("", None),
            ("t", None),
        ];
        for (token, expect) in cases {
            assert_eq!(tokens.lookup(token), expect.as_ref(), "{token}");
        }
        assert_eq!(tokens.len(), 4);
        assert!(StaticTokens::parse("empty.csv", "").expect("none").is_empty());
    }

    #[test]
    fn errors_name_the_line() {
        let cases = [
            (
                "t1,ann,1\nt2,bob\n",
                "token file f, line 2: must have at least 3 columns (token, user name, user uid), found 2",
            ),
            ("\n\n,ann,1\n", "token file f, line 3: the token is empty"),
            ("t,,1\n", "token file f, line 1: the user name is empty"),
            ("t,a,1,\"x\ny\"\nu,b,\"", "token file f, line 3: a quoted field has no end"),
            ("t,a\"b,1", "token file f, line 1: a quote stands in a field that isn't quoted"),
            ("t,\"a\"b,1", "token file f, line 1: something follows the end of a quoted field"),
        ];
        for (text, expect) in cases {
            assert_eq!(StaticTokens::parse("f", text).expect_err(text).to_string(), expect);
        }
    }
}
