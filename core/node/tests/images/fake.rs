//! A registry that behaves as the test wants: it breaks off, asks for tokens, lies.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub headers: HashMap<String, String>,
}

/// One answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub break_after: Option<usize>,
}

impl Answer {
    pub fn ok(body: &[u8]) -> Self {
        Self { status: 200, body: body.to_vec(), ..Self::default() }
    }

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running registry.
pub struct Fake {
    pub host: String,
    pub asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// Answers as the function says; it is told the registry's own host.
    pub async fn start(answer: impl Fn(&str, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, list, own) = (Arc::new(answer), asked.clone(), host.clone());
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, list, own) = (answer.clone(), list.clone(), own.clone());
                tokio::spawn(async move {
                    let (reader, mut writer) = stream.split();
                    let mut reader = BufReader::new(reader);
                    while let Some(request) = read_request(&mut reader).await {
                        list.lock().unwrap().push(request.clone());
                        let answer = answer(&own, &request);
                        let mut head =
                            format!("HTTP/1.1 {} X\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
                        for (name, value) in &answer.headers {
                            head.push_str(&format!("{name}: {value}\r\n"));
                        }
                        head.push_str("\r\n");
                        let body = &answer.body[..answer.break_after.unwrap_or(answer.body.len())];
                        if writer.write_all(head.as_bytes()).await.is_err() || writer.write_all(body).await.is_err() {
                            return;
                        }
                        if answer.break_after.is_some() {
                            return;
                        }
                    }
                });
            }
        });
        Self { host, asked, task }
    }

    /// Paths asked for that hold a word.
    pub fn count(&self, word: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.path.contains(word)).count()
    }
}

async fn read_request(reader: &mut (impl AsyncReadExt + AsyncBufReadExt + Unpin)) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).await.ok().filter(|&count| count > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
            None => return Some(Asked { path, headers }),
        };
    }
}
