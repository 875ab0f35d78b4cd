//! `interface process`: granted programs.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use super::{CapabilityError, CapabilityResult, ErrorCode};
use crate::bindings::runtime::gantry::host::process::{Output, Request};

/// Most of each output that is kept; the rest is read and dropped.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Runs a program to its end. It is killed with its process group when time is up or the call is given up.
pub(crate) async fn run(programs: &BTreeSet<PathBuf>, request: Request) -> CapabilityResult<Output> {
    let program = Path::new(&request.program);
    if !programs.contains(program) {
        return Err(CapabilityError::new(ErrorCode::Denied, format!("program {} is not granted", request.program)));
    }
    let doing = || format!("run {}", request.program);
    let mut command = Command::new(program);
    command
        .args(&request.arguments)
        .env_clear()
        .envs(request.environment.iter().map(|variable| (&variable.key, &variable.value)))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| CapabilityError::io(doing(), &error))?;
    let group = Group(child.id());
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that doesn't read its input to the end is no failure.
            let _ = stdin.write_all(&request.stdin).await;
        }
    };
    let whole = async {
        let ((), stdout, stderr, status) = tokio::join!(feed, read(stdout), read(stderr), child.wait());
        (stdout, stderr, status)
    };
    let limit = Duration::from_millis(request.timeout_milliseconds.into());
    let Ok((stdout, stderr, status)) = tokio::time::timeout(limit, whole).await else {
        let message = format!("{}: killed after {} ms", doing(), request.timeout_milliseconds);
        return Err(CapabilityError::new(ErrorCode::Unavailable, message));
    };
    group.ended();
    let status = status.map_err(|error| CapabilityError::io(doing(), &error))?;
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Output { code, stdout, stderr })
}

/// A child's process group, killed when this is dropped before the child has ended.
struct Group(Option<u32>);

impl Group {
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.and_then(|pid| i32::try_from(pid).ok()) {
            // It may be gone already.
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return kept };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let room = OUTPUT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::KeyValue;

    fn request(script: &str, timeout_milliseconds: u32) -> Request {
        Request {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![KeyValue { key: "WORD".into(), value: "hello".into() }],
            stdin: b"input".to_vec(),
            timeout_milliseconds,
        }
    }

    async fn sh(script: &str, timeout_milliseconds: u32) -> CapabilityResult<Output> {
        run(&BTreeSet::from([PathBuf::from("/bin/sh")]), request(script, timeout_milliseconds)).await
    }

    #[tokio::test]
    async fn a_granted_program_runs_with_what_it_was_given_and_nothing_else() {
        let output = sh("cat; echo \" $WORD ${HOME-none} $PWD\"; echo oops >&2; exit 3", 60_000).await.unwrap();
        assert_eq!(output.code, 3);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "input hello none /\n");
        assert_eq!(output.stderr, b"oops\n");
        assert_eq!(sh("kill -9 $$", 60_000).await.unwrap().code, 137);
    }

    #[tokio::test]
    async fn others_are_denied() {
        let outcome = run(&BTreeSet::new(), request("true", 60_000)).await;
        assert_eq!(outcome.unwrap_err().code, ErrorCode::Denied);
    }

    #[tokio::test]
    async fn its_time_is_limited_and_its_children_die_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("alive");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // The grandchild holds the pipe open for writing: the reader sees its end when it has been killed.
        let script = format!("exec 1>&- 2>&-; (exec 3>'{0}'; sleep 600) & wait", fifo.display());
        let reader = std::thread::spawn(move || std::fs::read(&fifo).map(|content| content.len()));
        let error = sh(&script, 300).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
        assert_eq!(reader.join().unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn output_is_cut() {
        let output = sh("head -c 3000000 /dev/zero", 60_000).await.unwrap();
        assert_eq!((output.code, output.stdout.len()), (0, OUTPUT_BYTES_MAX));
    }
}
