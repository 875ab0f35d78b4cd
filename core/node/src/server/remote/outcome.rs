//! How a command ended, as the client is told on the error channel.

use bytes::Bytes;
use serde_json::json;

use super::client::OutcomeForm;

/// The end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The process ended with this code.
    Exit(i32),
    /// It could not be run or watched.
    Failure(String),
}

impl Outcome {
    /// The message of the error channel; none when there is nothing to say.
    pub fn message(&self, form: OutcomeForm) -> Option<Bytes> {
        let text = match (self, form) {
            (Self::Exit(0), OutcomeForm::Text) => return None,
            (Self::Exit(0), OutcomeForm::Status) => json!({"metadata": {}, "status": "Success"}).to_string(),
            (Self::Exit(code), OutcomeForm::Text) => format!("command terminated with exit code {code}"),
            (Self::Exit(code), OutcomeForm::Status) => json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with exit code {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            })
            .to_string(),
            (Self::Failure(why), OutcomeForm::Text) => why.clone(),
            (Self::Failure(why), OutcomeForm::Status) => json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: {why}"),
                "details": {"causes": [{"message": why}]},
            })
            .to_string(),
        };
        Some(Bytes::from(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let text = |outcome: Outcome, form| {
            outcome.message(form).map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"))
        };
        assert_eq!(text(Outcome::Exit(0), OutcomeForm::Text), None);
        insta::assert_snapshot!(text(Outcome::Exit(0), OutcomeForm::Status).expect("a message"), @r#"{"metadata":{},"status":"Success"}"#);
        insta::assert_snapshot!(text(Outcome::Exit(3), OutcomeForm::Text).expect("a message"), @"command terminated with exit code 3");
        let failure: serde_json::Value =
            serde_json::from_str(&text(Outcome::Exit(3), OutcomeForm::Status).expect("a message")).expect("JSON");
        assert_eq!(failure["reason"], "NonZeroExitCode");
        assert_eq!(failure["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(text(Outcome::Failure("x".into()), OutcomeForm::Text).as_deref(), Some("x"));
    }
}
