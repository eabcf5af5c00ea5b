// error: E0308
use countersign::{forward, receive::Received, upstream::Upstream};

pub async fn forward_received(
    request: Received<'_>,
    upstreams: &[std::sync::Arc<Upstream>],
    identity: &forward::Identity,
) {
    let _ = forward::send(request, upstreams, identity).await;
}
