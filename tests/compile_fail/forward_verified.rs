// error: E0308
use std::sync::Arc;

use countersign::{forward, upstream::Upstream, verify::Verified};

pub fn forward_verified(
    request: Verified<'_>,
    upstreams: &[Arc<Upstream>],
    identity: &forward::Identity,
) {
    let _ = forward::outbound(request, upstreams, identity, None);
}
