// error: E0624
use countersign::upstream::Upstream;

pub fn send_past_the_forwarder() {
    let _ = Upstream::send;
}
