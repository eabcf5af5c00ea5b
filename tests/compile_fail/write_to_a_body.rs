// error: E0616
use countersign::verify::Verified;

pub fn write_to_a_body(request: Verified<'_>) {
    let (_, mut body) = request.into_message();
    body.chunks.clear();
}
