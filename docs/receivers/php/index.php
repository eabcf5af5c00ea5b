<?php
if (!isset($_SERVER['HTTP_COUNTERSIGN_VERIFIED'])) {
    http_response_code(403);
    exit;
}
$inbox = getenv('INBOX') ?: 'inbox';
$part = tempnam($inbox, 'part-');
$file = fopen($part, 'wb');
$bytes = stream_copy_to_stream(fopen('php://input', 'rb'), $file);
$stored = fsync($file) && fclose($file);
// A body that arrived cut, a full disk: no 2xx, so that the sender tries again.
if (!$stored || $bytes !== (int) $_SERVER['CONTENT_LENGTH']) {
    unlink($part);
    http_response_code(500);
    exit;
}
rename($part, $inbox . '/' . hash_file('sha256', $part));
error_log('stored ' . $_SERVER['HTTP_COUNTERSIGN_REQUEST_ID']);
http_response_code(204);
