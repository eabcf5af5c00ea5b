// error: E0308
use std::sync::Arc;

use countersign::{forward, receive::Unverified, upstream::Upstream};

pub fn forward_unverified(
    request: Unverified<'_>,
    upstreams: &[Arc<Upstream>],
    identity: &forward::Identity,
) {
    let _ = forward::outbound(request, upstreams, identity, None);
}
