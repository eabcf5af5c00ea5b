// error: E0308
use std::sync::Arc;

use countersign::{forward, receive::Received, upstream::Upstream};

pub fn forward_received(
    request: Received<'_>,
    upstreams: &[Arc<Upstream>],
    identity: &forward::Identity,
) {
    let _ = forward::outbound(request, upstreams, identity, None);
}
