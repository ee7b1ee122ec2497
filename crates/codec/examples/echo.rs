//! A WebSocket server that sends back what it gets, on the frame layer alone: what the Autobahn suite is run against.
//! `cargo run -p straightway-codec --example echo -- 127.0.0.1:9001`
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use straightway_buffer::{BufferPool, PoolConfig};
use straightway_codec::ws::{
    CloseCode, DEFLATE_ANSWER, FrameReader, Incoming, Limits, Opcode, Role, accept_key,
    close_payload, deflate, offers_deflate, put_head, put_head_deflated,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(&address)?;
    println!("listening on {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(error) = serve(stream) {
                eprintln!("a connection ended: {error}");
            }
        });
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> Result<(), Box<dyn std::error::Error>> {
    stream.set_nodelay(true)?;
    let deflates = shake_hands(&mut stream)?;
    let limits = Limits { max_message: 64 << 20, max_fragments: u32::MAX };
    let mut reader = FrameReader::new(Role::Server, limits, deflates);
    let pool = BufferPool::new(PoolConfig::tiered())?;
    let mut input = vec![0; 256 * 1024];
    loop {
        let read = stream.read(&mut input)?;
        if read == 0 {
            return Ok(());
        }
        let mut at = 0;
        while at < read {
            let (opcode, payload) = match reader.read(&mut input[at..read]) {
                Ok((taken, None)) => {
                    at += taken;
                    continue;
                }
                Ok((taken, Some(incoming))) => {
                    at += taken;
                    match incoming {
                        Incoming::Text(text) => (Opcode::Text, text.as_bytes().to_vec()),
                        Incoming::Binary(bytes) => (Opcode::Binary, bytes.to_vec()),
                        Incoming::Ping(payload) => (Opcode::Pong, payload.to_vec()),
                        Incoming::Pong(_) => continue,
                        Incoming::Close(None) => {
                            (Opcode::Close, close_payload(CloseCode::Normal, ""))
                        }
                        Incoming::Close(Some((code, _))) => {
                            (Opcode::Close, code.to_be_bytes().to_vec())
                        }
                    }
                }
                Err(violation) => {
                    at = read;
                    (Opcode::Close, close_payload(violation.code, violation.what))
                }
            };
            let is_message = matches!(opcode, Opcode::Text | Opcode::Binary);
            send(&mut stream, &pool, opcode, &payload, deflates && is_message)?;
            if opcode == Opcode::Close {
                stream.shutdown(std::net::Shutdown::Write)?;
                // What is still on its way is taken in, so that the peer reads why it ended.
                io::copy(&mut stream, &mut io::sink())?;
                return Ok(());
            }
        }
    }
}

fn send(
    stream: &mut TcpStream,
    pool: &BufferPool,
    opcode: Opcode,
    payload: &[u8],
    deflates: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut frame = pool.acquire(16 + payload.len())?;
    frame.set_headroom(16)?;
    if deflates && deflate(payload, &mut frame) {
        put_head_deflated(&mut frame, opcode)?;
    } else {
        frame.set_len(payload.len())?;
        frame.copy_from_slice(payload);
        put_head(&mut frame, opcode)?;
    }
    Ok(stream.write_all(&frame)?)
}

/// Reads the request, answers 101; whether permessage-deflate was agreed on.
fn shake_hands(stream: &mut TcpStream) -> Result<bool, Box<dyn std::error::Error>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16 * 1024 {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?;
    let field = |wanted: &str| {
        head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim().to_owned())
        })
    };
    let accept = accept_key(&field("Sec-WebSocket-Key").ok_or("no key")?);
    let deflates = field("Sec-WebSocket-Extensions").is_some_and(|offers| offers_deflate(&offers));
    let extension = if deflates {
        format!("Sec-WebSocket-Extensions: {DEFLATE_ANSWER}\r\n")
    } else {
        String::new()
    };
    write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{extension}\r\n"
    )?;
    Ok(deflates)
}
