//! A provider that costs next to nothing, `origin LISTEN`: the model's name says how it answers.
//!
//! `plain` is a JSON reply; `burst-N` a stream of N events without a pause; `paced-N-MS` one with
//! a pause between events; `hold-SECONDS` one event, then silence, then the end.

use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, interval_at};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MODELS: &str = r#"{"object":"list","data":[{"id":"plain","object":"model","created":1700000000,"owned_by":"bench"}]}"#;
const REPLY: &str = r#"{"id":"gen-bench-000000000001","object":"chat.completion","created":1700000000,"model":"plain","provider":"Bench","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"A cirque is a valley shaped like an armchair, hollowed out by a glacier that has since gone; where it keeps water, there is a tarn.","refusal":null}}],"usage":{"prompt_tokens":230,"completion_tokens":31,"total_tokens":261,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0},"cost":0.0000531}}"#;
const EVENT: &str = "data: {\"id\":\"gen-bench-000000000001\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"plain\",\"provider\":\"Bench\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\" valley\"},\"finish_reason\":null}]}\n\n";
const LAST: &str = "data: {\"id\":\"gen-bench-000000000001\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"plain\",\"provider\":\"Bench\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":230,\"completion_tokens\":200,\"total_tokens\":430,\"cost\":0.0001}}\n\n";
const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// Bytes read at once: large enough that a 5 MB body does not measure the origin.
const BUFFER: usize = 128 * 1024;
/// Callers here put `model` first.
const MODEL_WITHIN: usize = 256;

/// What every connection sends, framed once.
struct Canned {
    plain: Vec<u8>,
    models: Vec<u8>,
    event: Vec<u8>,
    end: Vec<u8>,
}

/// How a reply is sent, read from the request.
#[derive(Clone, Copy)]
enum Shape {
    Models,
    Plain,
    Stream { events: u64, pause: Option<Duration> },
    Hold(Duration),
}

fn json(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// The shape a request asks for.
fn shape(head: &[u8], body: &[u8]) -> Shape {
    if head.starts_with(b"GET ") {
        return Shape::Models;
    }
    let model =
        find(body, b"\"model\":\"").map_or(&b""[..], |at| body.get(at + 9..).unwrap_or(b""));
    let model = model.split(|byte| *byte == b'"').next().unwrap_or_default();
    let text = std::str::from_utf8(model).unwrap_or_default();
    let mut words = text.split('-');
    let kind = words.next().unwrap_or_default();
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(1);
    match kind {
        "burst" => Shape::Stream { events: number(), pause: None },
        "paced" => {
            let events = number();
            Shape::Stream { events, pause: Some(Duration::from_millis(number())) }
        }
        "hold" => Shape::Hold(Duration::from_secs(number())),
        _ => Shape::Plain,
    }
}

async fn answer(stream: &mut TcpStream, canned: &Canned, shape: Shape) -> io::Result<()> {
    match shape {
        Shape::Models => stream.write_all(&canned.models).await,
        Shape::Plain => stream.write_all(&canned.plain).await,
        Shape::Stream { events, pause } => {
            stream.write_all(STREAM_HEAD.as_bytes()).await?;
            stream.write_all(&canned.event).await?;
            // The first event waits for no timer: a timer's millisecond would hide what is measured.
            let mut ticks = pause.map(|pause| interval_at(Instant::now() + pause, pause));
            for _ in 1..events {
                if let Some(ticks) = &mut ticks {
                    ticks.tick().await;
                }
                stream.write_all(&canned.event).await?;
            }
            stream.write_all(&canned.end).await
        }
        Shape::Hold(silence) => {
            stream.write_all(STREAM_HEAD.as_bytes()).await?;
            stream.write_all(&canned.event).await?;
            tokio::time::sleep(silence).await;
            stream.write_all(&canned.end).await
        }
    }
}

/// The length of the body that follows this head; these callers never send chunks.
fn body_length(head: &[u8]) -> usize {
    String::from_utf8_lossy(head)
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// Serves one connection until its caller leaves. Callers here wait for an answer before they send
/// the next call, so nothing of a second call is ever in the buffer.
async fn serve(mut stream: TcpStream, canned: Arc<Canned>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let (mut filled, mut body) = (0, None);
        // The head and the start of the body say how to answer.
        while body.is_none_or(|(at, length): (usize, usize)| filled < at + length.min(MODEL_WITHIN))
        {
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
            if body.is_none() {
                let end = find(&buffer[..filled], b"\r\n\r\n").map(|at| at + 4);
                body = end.map(|end| (end, body_length(&buffer[..end])));
            }
        }
        let Some((at, length)) = body else { return Ok(()) };
        let shape = shape(&buffer[..at], &buffer[at..filled.min(at + MODEL_WITHIN)]);
        let mut missing = length - (filled - at);
        while missing > 0 {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            missing = missing.saturating_sub(read);
        }
        answer(&mut stream, &canned, shape).await?;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listen = std::env::args().nth(1).ok_or("usage: origin LISTEN")?;
    let canned = Arc::new(Canned {
        plain: json(REPLY),
        models: json(MODELS),
        event: chunk(EVENT),
        end: [chunk(LAST), chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat(),
    });
    let listener = TcpListener::bind(&listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let canned = Arc::clone(&canned);
        tokio::spawn(async move { serve(stream, canned).await });
    }
}
