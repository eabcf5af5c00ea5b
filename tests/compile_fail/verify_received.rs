// error: E0308
use countersign::{receive::Received, verify::verify};

pub fn verify_received(request: Received<'_>) {
    let _ = verify(request);
}
