#!/usr/bin/env node
// Regenerates the synthetic CareValidate-style webhook bodies beside this script and the signature vectors in
// ../carevalidate.json. Everything is invented; each vector's `assumed` list names what no public page of
// CareValidate shows. No dependencies; Node >= 18.
//
//   node generate.mjs                         write the bodies and ../carevalidate.json
//                                             (needs openssl and python3 for the cross-check)
//   node generate.mjs --no-crosscheck         the same with Node's crypto alone
//   node generate.mjs --check                 regenerate in memory, compare with the files on disk
//   node generate.mjs --large MB --out DIR [--documents N]
//                                             write one ADD_CASE_ATTACHMENT body (N = 1) or one
//                                             full-case body with N documents, MB megabytes of
//                                             document bytes (1 MB = 1,000,000 bytes) before BASE64
//   node generate.mjs --altered --out DIR     write the body that body_cases start from, altered in each way:
//                                             DIR/<name of the case>
//
// Bodies are exactly JSON.stringify(value) in UTF-8: compact, non-ASCII kept
// as is, no trailing newline.

import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const HERE = dirname(fileURLToPath(import.meta.url))

// ---------------------------------------------------------------- basics

const sha256hex = (bytes) => createHash('sha256').update(bytes).digest('hex')
const sign = (secret, bytes) => createHmac('sha256', secret).update(bytes).digest('hex')
const serialise = (value) => Buffer.from(JSON.stringify(value), 'utf8')

/** A UUID in v4 form, the same for the same label on every machine. */
function uuid(label) {
  const h = createHash('sha256').update('countersign-test:' + label).digest()
  h[6] = (h[6] & 0x0f) | 0x40
  h[8] = (h[8] & 0x3f) | 0x80
  const x = h.toString('hex')
  return `${x.slice(0, 8)}-${x.slice(8, 12)}-${x.slice(12, 16)}-${x.slice(16, 20)}-${x.slice(20, 32)}`
}

/** Minutes after a fixed start, in the ISO form that Date#toJSON gives. */
const at = (minutes) => new Date(Date.UTC(2025, 2, 3, 9, 0, 0, 118) + minutes * 60000).toISOString()

/** Noise that does not compress, from xorshift32. */
function noise(size, seed) {
  const out = Buffer.alloc(size)
  let s = seed >>> 0 || 1
  for (let i = 0; i < size; i++) {
    s ^= s << 13
    s >>>= 0
    s ^= s >>> 17
    s ^= s << 5
    s >>>= 0
    out[i] = s & 0xff
  }
  return out
}

/** A well-formed one-page PDF of exactly `size` bytes holding a grey noise image. */
export function makePdf(size, seed = 1) {
  const width = 256
  const pixels = noise(Math.max(width, size), seed)
  const build = (rows, pad) => {
    const parts = []
    const offsets = []
    let length = 0
    const push = (chunk) => {
      const b = typeof chunk === 'string' ? Buffer.from(chunk, 'latin1') : chunk
      parts.push(b)
      length += b.length
    }
    const object = (n, head, stream) => {
      offsets[n] = length
      push(`${n} 0 obj\n${head}\n`)
      if (stream) {
        push('stream\n')
        push(stream)
        push('\nendstream\n')
      }
      push('endobj\n')
    }
    push('%PDF-1.4\n%\xe2\xe3\xcf\xd3\n')
    push('%' + 'x'.repeat(pad) + '\n')
    object(1, '<< /Type /Catalog /Pages 2 0 R >>')
    object(2, '<< /Type /Pages /Kids [3 0 R] /Count 1 >>')
    object(3, '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /XObject << /I 4 0 R >> >> /Contents 5 0 R >>')
    object(4, `<< /Type /XObject /Subtype /Image /Width ${width} /Height ${rows} /ColorSpace /DeviceGray /BitsPerComponent 8 /Length ${width * rows} >>`, pixels.subarray(0, width * rows))
    const content = Buffer.from('q 512 0 0 700 50 46 cm /I Do Q', 'latin1')
    object(5, `<< /Length ${content.length} >>`, content)
    const xref = length
    push('xref\n0 6\n0000000000 65535 f \n')
    for (let n = 1; n <= 5; n++) push(String(offsets[n]).padStart(10, '0') + ' 00000 n \n')
    push(`trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n${xref}\n%%EOF\n`)
    return Buffer.concat(parts, length)
  }
  let rows = Math.max(1, Math.floor((size - 1100) / width))
  for (;;) {
    let pad = 0
    let pdf = build(rows, pad)
    if (pdf.length > size) {
      if (rows === 1) throw new Error(`a PDF of ${size} bytes is too small to build`)
      rows--
      continue
    }
    // Padding can change the number of digits in startxref, so settle it.
    for (let i = 0; i < 5 && pdf.length !== size; i++) {
      pad += size - pdf.length
      pdf = build(rows, pad)
    }
    if (pdf.length === size) return pdf
    rows--
  }
}

// ---------------------------------------------------------------- people and case (all invented)

const person = (key, firstName, lastName) => ({ id: uuid('person ' + key), firstName, lastName })
const withEmail = (p, email) => ({ ...p, email })

const ORG = uuid('organisation')
const PATIENTS = {
  zoe: withEmail(person('zoe', 'Zoë', 'Łukasiewicz-Núñez'), 'zoe@patients.example.com'),
  midori: withEmail(person('midori', 'みどり', '見本'), 'midori@patients.example.org'),
  xiaoming: withEmail(person('xiaoming', '小明', '示例'), 'xiaoming@patients.example.net'),
  // "é" here is e + U+0301, so a Unicode-normalising hop changes the bytes.
  rene: withEmail(person('rene', 'Rene\u0301', 'O’Sample'), 'rene@patients.example.com'),
  salma: withEmail(person('salma', 'سلمى', 'مثال'), 'salma@patients.example.org'),
  asha: withEmail(person('asha', 'आशा', 'उदाहरण'), 'asha@patients.example.net'),
  plain: withEmail(person('plain', 'Pat', 'Placeholder'), 'pat@patients.example.com'),
}
const DOCTOR = withEmail(person('doctor', 'Ingrid', 'Specimen'), 'ingrid.specimen@clinic.example.com')
const SUPPORT = withEmail(person('support', 'Sam', 'Fixture'), 'support@clinic.example.com')
const ASSIGNER = withEmail(person('assigner', 'Noor', 'Dummy'), 'noor.dummy@clinic.example.com')

/** The case fields listed on the event pages. */
function caseBasics(key, patient, over = {}) {
  return {
    id: uuid('case ' + key),
    type: 'GLP',
    title: `Case for ${patient.firstName} ${patient.lastName} 2025-03-03`,
    status: 'IN_PROGRESS',
    shortId: 'TST-' + sha256hex(Buffer.from(key)).slice(0, 5).toUpperCase(),
    createdAt: at(0),
    updatedAt: at(95),
    assignedAt: at(12),
    inProgressAt: at(30),
    closedAt: null,
    isArchived: false,
    isEscalated: false,
    isImported: false,
    referralCode: null,
    closedBy: null,
    inProgressBy: DOCTOR.id,
    organizationId: ORG,
    archiveReason: null,
    archiveNote: null,
    productBundleId: uuid('bundle'),
    productBundle: { id: uuid('bundle'), name: 'Examplutide starter bundle' },
    ...over,
  }
}

const formOf = () => ({ id: uuid('form intake'), name: 'Intake form', description: 'Invented questions for tests' })

function answers(patient, key) {
  const question = (index, type, text, options) => ({ index, type, text, isPHI: index > 1, options, required: true })
  const respondent = { id: patient.id, firstName: patient.firstName, lastName: patient.lastName }
  return [
    { id: uuid(key + ' a1'), isArchived: false, question: question(1, 'SINGLESELECT', 'Which goal fits best?', ['Lose weight', 'Keep weight']), text: 'Keep weight', createdAt: at(1), respondent },
    { id: uuid(key + ' a2'), isArchived: false, question: question(2, 'MULTISELECT', 'Allergies? ¿Alergias? アレルギー?', ['None', 'Nuts 🥜', 'Latex']), text: JSON.stringify(['Nuts 🥜', 'Latex']), createdAt: at(1), respondent },
    { id: uuid(key + ' a3'), isArchived: false, question: question(3, 'TEXT', 'Anything else we should know?', []), text: 'Height 1.75 m; temp 36,6 °C — “feeling fine” 🙂', createdAt: at(2), respondent },
    { id: uuid(key + ' a4'), isArchived: false, question: question(4, 'DATERANGE', 'When are you away?', []), text: '2025-04-01/2025-04-09', createdAt: at(2), respondent },
  ]
}

const decisionOf = (key) => ({
  id: uuid('decision ' + key),
  isApproved: true,
  isNoDecision: false,
  startDate: at(90),
  endDate: at(90 + 90 * 1440),
  decisionText: 'Approved.\nStart low, go slow → re-check in 4 weeks ✅',
  category: null,
  createdAt: at(90),
  visitType: 'ASYNC_TEXT_EMAIL',
  addedBy: {
    firstName: DOCTOR.firstName,
    lastName: DOCTOR.lastName,
    title: 'MD',
    email: DOCTOR.email,
    phoneNumber: '+12025550142',
    npi: '0000000000',
    dea: 'ZZ0000000',
    address: '1 Placeholder Street',
    city: 'Exampleville',
    state: 'NC',
    postalCode: '00000',
  },
  medInfo: [
    {
      id: uuid('med ' + key),
      medicine: 'Examplutide 0.25 mg/0.5 mL',
      dosage: '0.25 mg',
      refillCount: 2,
      isPriorAuthRequested: false,
      dosingFrequency: 'once weekly',
      treatmentPeriod: '4 weeks',
      pharmacyInstructions: 'Inject s.c.; keep at 2–8 °C',
    },
  ],
})

const paymentOf = (key, status) => ({
  id: uuid('payment ' + key),
  isDeleted: false,
  description: 'Payment for Examplutide – März / 三月',
  amount: 149.1,
  status,
  dueDate: at(100),
  paymentDate: status === 'PAID' ? at(103) : null,
  cancellationDate: null,
})

const orderOf = (key, status, trackingId) => ({
  id: uuid('order ' + key),
  status,
  trackingId,
  message: status === 'SHIPPED' ? 'Left the pharmacy 📦' : 'Being packed',
  createdAt: at(120),
})

const signedUrl = (name, key) =>
  `https://storage.example.com/case-documents/${uuid('object ' + key)}/${encodeURIComponent(name)}` +
  '?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=test%40example.com%2F20250303%2Fauto%2Fstorage%2Fgoog4_request' +
  `&X-Goog-Date=20250303T101500Z&X-Goog-Expires=900&X-Goog-SignedHeaders=host&X-Goog-Signature=${'00ff'.repeat(32)}`

const attachmentOf = (key, fileName, uploader, content) => ({
  id: uuid('attachment ' + key),
  isRestricted: false,
  isPHI: true,
  fileName,
  isDeleted: false,
  createdAt: at(60),
  uploadedBy: { id: uploader.id, firstName: uploader.firstName, lastName: uploader.lastName },
  content,
})

const calendarOf = (key, patient, over = {}) => ({
  id: uuid('calendar ' + key),
  title: 'Video visit',
  topic: 'Follow-up',
  description: `Follow-up with ${patient.firstName} ${patient.lastName}`,
  color: '#1f77b4',
  createdAt: at(20),
  updatedAt: at(70),
  isDeleted: false,
  status: null,
  startDateTime: at(2880),
  endDateTime: at(2910),
  timezone: 'Asia/Tokyo',
  meetingLink: 'https://meet.example.com/j/000-000-000?pwd=test&lang=ja',
  cancelURL: 'https://calendar.example.com/cancellations/TEST0000',
  rescheduleURL: 'https://calendar.example.com/reschedulings/TEST0000',
  meetingNotes: [
    { answer: 'はい、大丈夫です 👍', position: 0, question: 'Is this time convenient?' },
    { answer: 'No', position: 1, question: 'Do you need an interpreter?' },
  ],
  meetingProvider: 'zoom_conference',
  providerName: 'Dr. Ingrid Specimen',
  providerEmail: DOCTOR.email,
  tracking: { utm_term: null, utm_medium: 'email', utm_source: null, utm_content: null, utm_campaign: 'spring-🌸' },
  ...over,
})

const activityOf = (key, type, actor, patient, valueBefore, valueAfter, minutes = 95) => ({
  id: uuid('activity ' + key),
  type,
  isPHI: false,
  isRestricted: false,
  timestamp: at(minutes),
  valueBefore,
  valueAfter,
  actor,
  targetUser: patient,
})

// A comment that trips serialisers which escape, normalise, sort or trim:
// HTML characters, slashes, quotes, control characters, U+2028/U+2029, NUL,
// DEL, a lone surrogate, a ZWJ emoji, a flag, a decomposed accent and a BOM.
const AWKWARD =
  'Tabs\tand\nnewlines\r\n"quotes" \\ back/slash </script> <b>&amp;</b> \'apos\' ' +
  '\u0000\u0007\u001f\u007f\u0085\u00a0\u2028\u2029\ufeff \ud83d lone; ' +
  'e\u0301 vs é; ﬁ; 👩🏽‍⚕️ 🇯🇵 𠮷野家; \u2126 vs \u03a9; end '

const commentOf = (key, author, patient, attachments) => ({
  id: uuid('comment ' + key),
  text: AWKWARD,
  isRestricted: false,
  createdAt: at(80),
  forms: [],
  author: {
    id: author.id,
    firstName: author.firstName,
    lastName: author.lastName,
    email: author.email,
    role: 'CASEWORKER',
    title: null,
    titleSuffix: null,
    npi: null,
    dea: null,
    organizationAccess: [{ role: 'TPASUPPORT' }],
  },
  attachments,
})

const b64 = (size, seed) => makePdf(size, seed).toString('base64')

/** The whole case. The stored pages do not show the names of these arrays: see ASSUMED_FULL. */
function fullCase(key, patient, over = {}, documents = 'BASE64') {
  const doc = (k, name, size, seed) =>
    attachmentOf(key + k, name, patient, documents === 'URL' ? signedUrl(name, key + k) : b64(size, seed))
  return {
    ...caseBasics(key, patient, over),
    submitter: { ...patient, dob: '1990-01-15', gender: 'FEMALE', phoneNumber: '+12025550171', state: 'NC' },
    assignedTo: DOCTOR,
    assignedBy: ASSIGNER,
    hrRep: SUPPORT,
    responses: [{ ...formOf(), responses: answers(patient, key + ' full') }],
    decisions: [decisionOf(key)],
    comments: [commentOf(key, SUPPORT, patient, [doc(' c1', 'note.pdf', 2400, 11)])],
    attachments: [doc(' f1', 'labs – Ergebnis.pdf', 3600, 12), doc(' f2', '検査結果.pdf', 2000, 13)],
    payments: [paymentOf(key, 'PAID')],
    orders: [orderOf(key, 'SHIPPED', 'TEST-TRACK-0001')],
    calendarEvents: [calendarOf(key, patient)],
    activities: [
      activityOf(key + ' h1', 'CREATE_CASE', patient, patient, null, 'case has been created', 0),
      activityOf(key + ' h2', 'ADD_CASE_ASSIGNEE', ASSIGNER, patient, null, `${DOCTOR.firstName} ${DOCTOR.lastName}`, 12),
      activityOf(key + ' h3', 'PAYMENT_COMPLETED', patient, patient, 'UNPAID', 'PAID', 103),
    ],
  }
}

// ---------------------------------------------------------------- the bodies

const ASSUMED_FULL = [
  'payload.case.decisions', 'payload.case.comments', 'payload.case.attachments', 'payload.case.payments',
  'payload.case.orders', 'payload.case.calendarEvents', 'payload.case.activities', 'payload.case.submitter.*',
]
const ASSUMED_BUNDLE = ['payload.case.productBundle.*']
const ASSUMED_ACTIVITY = ['payload.activity (fields taken from ADD_PAYMENT_INFO_USING_LINK)']

/** name -> { event, option, documents, assumed, body } */
function bodies() {
  const out = new Map()
  const add = (name, option, documents, assumed, body) =>
    out.set(name + '.json', { event: body.event, option, documents, assumed: [...new Set(assumed)], body })

  // An event in both options: the same event objects, with the short or the whole case.
  const both = (slug, event, patient, { objects = {}, top = {}, over = {}, assumed = [], actor = DOCTOR, before = null, after = null, showActivity = true, fullDocuments = 'BASE64' }) => {
    const activity = showActivity ? { activity: activityOf(slug, event, actor, patient, before, after) } : {}
    const common = [...assumed, ...(showActivity ? ASSUMED_ACTIVITY : [])]
    add(`${slug}.event`, 'only-event-data', 'none', [...common, ...ASSUMED_BUNDLE],
      { event, ...top, payload: { ...objects, case: caseBasics(slug, patient, over), ...activity } })
    add(`${slug}.full`, 'full-case-data', fullDocuments, [...common, ...ASSUMED_BUNDLE, ...ASSUMED_FULL],
      { event, ...top, payload: { ...objects, case: fullCase(slug, patient, over, fullDocuments), ...activity } })
  }

  both('create-case', 'CREATE_CASE', PATIENTS.zoe, {
    over: { status: 'OPEN', assignedAt: null, inProgressAt: null, inProgressBy: null, updatedAt: at(0), referralCode: 'FRÜHLING-25' },
    actor: PATIENTS.zoe, after: 'case has been created', assumed: ['event-only shape of CREATE_CASE'],
  })
  both('archive-case', 'ARCHIVE_CASE', PATIENTS.asha, {
    over: { status: 'APPROVED', isArchived: true, archiveReason: 'COMPLETE', archiveNote: 'उपचार पूरा हुआ ✔️', closedAt: at(94), closedBy: SUPPORT.id },
    actor: SUPPORT, after: 'COMPLETE', assumed: ['event-only shape of ARCHIVE_CASE'],
  })
  both('add-case-assignee', 'ADD_CASE_ASSIGNEE', PATIENTS.midori, {
    objects: { assignees: [{ assignee: person('doctor', 'Ingrid', 'Specimen') }, { assignee: person('second', 'Björk', 'Ðæmi') }] },
    over: { status: 'ASSIGNED', inProgressAt: null, inProgressBy: null }, actor: ASSIGNER, after: 'Ingrid Specimen, Björk Ðæmi',
  })
  both('remove-case-assignee', 'REMOVE_CASE_ASSIGNEE', PATIENTS.midori, {
    objects: { assignees: [{ assignee: person('second', 'Björk', 'Ðæmi') }] }, actor: ASSIGNER, before: 'Björk Ðæmi',
  })
  both('add-case-decision', 'ADD_CASE_DECISION', PATIENTS.xiaoming, {
    objects: { decision: decisionOf('add-case-decision') }, over: { status: 'APPROVED' }, after: 'APPROVED',
    assumed: ['payload.decision.medInfo[].pharmacyInstructions (older article) beside the newer medInfo fields'],
  })
  {
    const { addedBy, ...rest } = decisionOf('decision-deleted')
    both('decision-deleted', 'DECISION_DELETED', PATIENTS.salma, {
      objects: { decision: { ...rest, isIndefinite: false, caseId: uuid('case decision-deleted'), addedById: DOCTOR.id, cost: null, isPaid: false } },
      before: 'APPROVED',
    })
  }
  both('add-form-response', 'ADD_FORM_RESPONSE', PATIENTS.midori, {
    objects: { form: formOf(), response: answers(PATIENTS.midori, 'add-form-response') }, actor: PATIENTS.midori,
  })
  both('payment-added', 'PAYMENT_ADDED', PATIENTS.rene, { objects: { payment: paymentOf('payment-added', 'UNPAID') }, actor: SUPPORT, after: 'UNPAID' })
  both('payment-completed', 'PAYMENT_COMPLETED', PATIENTS.rene, {
    objects: { payment: paymentOf('payment-completed', 'PAID') }, actor: PATIENTS.rene, before: 'UNPAID', after: 'PAID', fullDocuments: 'URL',
  })
  both('calendar-event-rescheduled', 'CALENDAR_EVENT_RESCHEDULED', PATIENTS.midori, {
    objects: { calendarEvent: calendarOf('rescheduled', PATIENTS.midori, { status: 'NEED_RESCHEDULE' }) }, actor: PATIENTS.midori,
    assumed: ['payload.calendarEvent.tracking.utm_source/utm_content/utm_campaign'],
  })
  both('calendar-event-canceled', 'CALENDAR_EVENT_CANCELED', PATIENTS.asha, {
    objects: { calendarEvent: calendarOf('canceled', PATIENTS.asha, { isDeleted: true, timezone: 'Asia/Calcutta', status: 'MISSED_EVENT_BY_USER' }) }, actor: PATIENTS.asha,
    assumed: ['payload.calendarEvent.tracking.utm_source/utm_content/utm_campaign'],
  })
  both('visit-type-changed', 'VISIT_TYPE_CHANGED', PATIENTS.plain, { before: 'ASYNC_TEXT_EMAIL', after: 'SYNC_VIDEO' })

  // The older article puts `order` beside `payload`, not inside it.
  both('order-tracking-added', 'ORDER_TRACKING_ADDED', PATIENTS.salma, {
    top: { order: orderOf('tracking', 'SHIPPED', 'TEST-TRACK-0001') }, over: { status: 'APPROVED', closedAt: at(110), closedBy: DOCTOR.id },
    showActivity: false, assumed: ['event-only shape of ORDER_TRACKING_ADDED'], fullDocuments: 'URL',
  })
  both('order-status-changed', 'ORDER_STATUS_CHANGED', PATIENTS.salma, {
    top: { order: orderOf('status', 'PROCESSING', null) }, over: { status: 'APPROVED' },
    showActivity: false, assumed: ['shape of ORDER_STATUS_CHANGED copied from ORDER_TRACKING_ADDED', 'order.status PROCESSING'],
  })

  {
    const activity = activityOf('payinfo', 'ADD_PAYMENT_INFO_USING_LINK', PATIENTS.zoe, PATIENTS.zoe, null, 'payment info has been added')
    const caseId = uuid('case payinfo')
    add('add-payment-info-using-link.event', 'only-event-data', 'none', [],
      { event: 'ADD_PAYMENT_INFO_USING_LINK', payload: { activity, caseId } })
    const address = { addressLine1: 'Königstraße 1', addressLine2: '', city: 'Exampleville', state: 'NC', country: 'US', postalCode: '00000' }
    add('add-payment-info-using-link.event.staging-docs', 'only-event-data', 'none', [],
      { event: 'ADD_PAYMENT_INFO_USING_LINK', payload: { caseId, paymentInfo: { maskedCardNumber: '**** **** **** 4242', cardBrand: 'visa', shippingAddress: address, billingAddress: address }, activity } })
  }

  for (const documents of ['BASE64', 'URL']) {
    const p = PATIENTS.xiaoming
    const name = '化验结果 – résultats 🧪.pdf'
    const content = documents === 'URL' ? signedUrl(name, 'att') : b64(204800, 7)
    add(`add-case-attachment.event.${documents.toLowerCase()}`, 'only-event-data', documents,
      [...ASSUMED_ACTIVITY, ...ASSUMED_BUNDLE, ...(documents === 'URL' ? ['payload.attachment.content holds the URL'] : [])],
      { event: 'ADD_CASE_ATTACHMENT', payload: { attachment: attachmentOf('att', name, p, content), case: caseBasics('add-case-attachment', p), activity: activityOf('att', 'ADD_CASE_ATTACHMENT', p, p, null, name) } })
    const small = documents === 'URL' ? signedUrl('scan.pdf', 'att2') : b64(5000, 8)
    add(`add-case-attachment.full.${documents.toLowerCase()}`, 'full-case-data', documents,
      [...ASSUMED_ACTIVITY, ...ASSUMED_BUNDLE, ...ASSUMED_FULL, ...(documents === 'URL' ? ['content holds the URL'] : [])],
      { event: 'ADD_CASE_ATTACHMENT', payload: { attachment: attachmentOf('att2', 'scan.pdf', p, small), case: fullCase('add-case-attachment', p, {}, documents), activity: activityOf('att2', 'ADD_CASE_ATTACHMENT', p, p, null, 'scan.pdf') } })
  }

  // The docs page says `comments` (an object); the older article says `comment`.
  const c = commentOf('add-case-comment', SUPPORT, PATIENTS.salma, [attachmentOf('comment file', 'hello.pdf', SUPPORT, b64(1500, 9))])
  both('add-case-comment', 'ADD_CASE_COMMENT', PATIENTS.salma, { objects: { comments: c }, actor: SUPPORT })
  {
    const author = { firstName: SUPPORT.firstName, lastName: SUPPORT.lastName }
    add('add-case-comment.event.older-article', 'only-event-data', 'BASE64', ASSUMED_BUNDLE,
      { event: 'ADD_CASE_COMMENT', payload: { case: caseBasics('add-case-comment', PATIENTS.salma), comment: { id: c.id, text: c.text, isRestricted: false, createdAt: c.createdAt, author, attachments: c.attachments.map((a) => ({ ...a, uploadedBy: author })) } } })
  }
  for (const name of ['add-case-comment.event.json']) out.get(name).documents = 'BASE64'
  return out
}

// ---------------------------------------------------------------- vectors

// Test-only secrets. Each catches a mistake: the key is the UTF-8 text as typed.
const SECRETS = [
  ['ascii', 'countersign-test-only-secret-1'],
  ['looks-like-hex', '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'],
  ['non-ascii', 'test only: schlüssel ключ 鍵 🔑'],
  ['looks-like-base64', Buffer.from('countersign-test-only-secret-4').toString('base64')],
  ['longer-than-a-sha256-block', 'countersign-test-only-long-' + '0123456789'.repeat(9)],
  ['outer-spaces', ' countersign-test-only-padded '],
]

const asciiJson = (text) => text.replace(/[\u007f-\uffff]/g, (ch) => '\\u' + ch.charCodeAt(0).toString(16).padStart(4, '0'))
const sortKeys = (v) =>
  Array.isArray(v) ? v.map(sortKeys) : v && typeof v === 'object' ? Object.fromEntries(Object.keys(v).sort().map((k) => [k, sortKeys(v[k])])) : v

/** Bodies a hop may turn the signed one into; the signature of the original must not verify. */
const BODY_TRANSFORMS = [
  ['append-lf', 'append 0x0a', (b) => Buffer.concat([b, Buffer.from('\n')])],
  ['append-crlf', 'append 0x0d 0x0a', (b) => Buffer.concat([b, Buffer.from('\r\n')])],
  ['prepend-bom', 'prepend 0xef 0xbb 0xbf', (b) => Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), b])],
  ['indent-2', 'parse, then print with an indent of two spaces', (b) => Buffer.from(JSON.stringify(JSON.parse(b.toString('utf8')), null, 2))],
  ['escape-non-ascii', 'replace every UTF-16 unit from U+007F up with a lower-case \\u escape', (b) => Buffer.from(asciiJson(b.toString('utf8')))],
  ['escape-slashes', 'replace every / with \\/', (b) => Buffer.from(b.toString('utf8').replaceAll('/', '\\/'))],
  ['escape-html', 'replace < > & with \\u003c \\u003e \\u0026', (b) => Buffer.from(b.toString('utf8').replace(/[<>&]/g, (ch) => '\\u00' + ch.charCodeAt(0).toString(16)))],
  ['sort-keys', 'sort the keys of every object by UTF-16 unit', (b) => serialise(sortKeys(JSON.parse(b.toString('utf8'))))],
  ['nfc', 'Unicode NFC of the text', (b) => Buffer.from(b.toString('utf8').normalize('NFC'))],
  ['number-format', 'write 149.1 as 149.10', (b) => Buffer.from(b.toString('utf8').replaceAll('149.1,', '149.10,'))],
  ['duplicate-key', 'put "event":"CREATE_CASE", first, before the real event', (b) => Buffer.concat([Buffer.from('{"event":"CREATE_CASE",'), b.subarray(1)])],
  ['utf-16le', 'the same text in UTF-16LE without a BOM', (b) => Buffer.from(b.toString('utf8'), 'utf16le')],
  ['drop-last-byte', 'drop the last byte', (b) => b.subarray(0, b.length - 1)],
  ['flip-bit', 'flip bit 0 of the middle byte (index floor(length / 2))', (b) => { const c = Buffer.from(b); c[c.length >> 1] ^= 1; return c }],
]

/** What the documented Node example answers for a header (undefined: absent). */
function documentedExample(expectedHex, header) {
  try {
    return String(timingSafeEqual(Buffer.from(expectedHex, 'hex'), Buffer.from(header, 'hex')))
  } catch (e) {
    return `throws ${e.name} ${e.code ?? ''}`.trim()
  }
}

function headerCases(good) {
  const bad = good.replace(/^./, (ch) => (ch === '0' ? '1' : '0'))
  const rows = [
    ['right signature', [good], 'accept'],
    ['upper case', [good.toUpperCase()], 'either'],
    ['wrong first digit', [bad], 'reject'],
    ['header absent', [], 'reject'],
    ['empty value', [''], 'reject'],
    ['one byte short (62 digits)', [good.slice(0, 62)], 'reject'],
    ['odd number of digits (63)', [good.slice(0, 63)], 'reject'],
    ['one digit too many (65)', [good + 'a'], 'reject'],
    ['one byte too many (66)', [good + 'aa'], 'reject'],
    ['right digits, then junk', [good + 'zz'], 'reject'],
    ['64 characters, none hex', ['z'.repeat(64)], 'reject'],
    ['sha256= prefix', ['sha256=' + good], 'reject'],
    ['0x prefix', ['0x' + good], 'reject'],
    ['BASE64 of the digest', [Buffer.from(good, 'hex').toString('base64')], 'reject'],
    ['sent twice, both right', [good, good], 'reject'],
    ['sent twice, right then wrong', [good, bad], 'reject'],
    ['sent twice, wrong then right', [bad, good], 'reject'],
  ]
  return rows.map(([name, values, strict]) => ({
    name,
    header_values: values,
    // Node's http server joins repeats of this header with ", ".
    documented_example: documentedExample(good, values.length ? values.join(', ') : undefined),
    strict,
  }))
}

function buildVectors(files) {
  const vectors = []
  let i = 0
  for (const [file, { event, option, documents, assumed, bytes }] of files) {
    const [secretName, secret] = SECRETS[i++ % SECRETS.length]
    vectors.push({
      file: 'carevalidate/' + file, event, payload_option: option, documents, assumed, bytes: bytes.length,
      sha256: sha256hex(bytes), secret_kind: secretName, secret, 'x-cv-signature': sign(secret, bytes),
    })
  }
  const byFile = new Map(vectors.map((v) => [v.file, v]))
  const bodyBase = byFile.get('carevalidate/payment-completed.full.json')
  const base = files.get('payment-completed.full.json').bytes
  const body_cases = BODY_TRANSFORMS.map(([name, recipe, f]) => {
    const changed = f(base)
    if (changed.equals(base)) throw new Error(`body case ${name} changes nothing`)
    return { name, recipe, bytes: changed.length, sha256: sha256hex(changed), own_signature: sign(bodyBase.secret, changed), original_signature_verifies: false }
  })
  const headerBase = byFile.get('carevalidate/add-case-decision.event.json')
  return {
    about: 'Synthetic bodies and test-only secrets; generated by generate.mjs. Key = UTF-8 bytes of secret as written; message = the exact bytes of the file; value = lower-case hex HMAC-SHA256.',
    cross_checked_with: ['node:crypto'],
    vectors,
    body_cases: { file: bodyBase.file, secret: bodyBase.secret, signature_sent: bodyBase['x-cv-signature'], expect: 'reject', cases: body_cases },
    header_cases: {
      file: headerBase.file, secret: headerBase.secret,
      about: 'documented_example: what the Node example in the public docs answers, run on Node 20; strict: what a careful verifier should answer (either: no security difference)',
      cases: headerCases(headerBase['x-cv-signature']),
    },
  }
}

function crossCheck(doc, dir) {
  const python = 'import hmac,hashlib,json,sys\n' +
    'for l in sys.stdin:\n r=json.loads(l)\n print(hmac.new(r["secret"].encode("utf-8"),open(r["path"],"rb").read(),hashlib.sha256).hexdigest())\n'
  const input = doc.vectors.map((v) => JSON.stringify({ secret: v.secret, path: join(dir, v.file) })).join('\n') + '\n'
  const py = spawnSync('python3', ['-c', python], { input, encoding: 'utf8' })
  if (py.status !== 0) throw new Error('python3 failed: ' + (py.error?.message ?? py.stderr))
  const fromPython = py.stdout.trim().split('\n')
  doc.vectors.forEach((v, n) => {
    const ssl = spawnSync('openssl', ['dgst', '-sha256', '-hmac', v.secret, join(dir, v.file)], { encoding: 'utf8' })
    if (ssl.status !== 0) throw new Error('openssl failed: ' + (ssl.error?.message ?? ssl.stderr))
    const fromOpenssl = ssl.stdout.trim().split(/\s+/).pop()
    if (fromOpenssl !== v['x-cv-signature']) throw new Error(`openssl differs for ${v.file}`)
    if (fromPython[n] !== v['x-cv-signature']) throw new Error(`python differs for ${v.file}`)
  })
  doc.cross_checked_with = ['node:crypto', 'openssl dgst -sha256 -hmac', 'python3 hmac']
}

// ---------------------------------------------------------------- command line

function allFiles() {
  const files = new Map()
  for (const [name, entry] of [...bodies()].sort(([a], [b]) => (a < b ? -1 : 1))) files.set(name, { ...entry, bytes: serialise(entry.body) })
  return files
}

function large(mb, outDir, count) {
  if (!(mb > 0 && mb <= 350)) throw new Error('--large takes a size from above 0 to 350 MB (one JSON string cannot hold more)')
  if (!outDir) throw new Error('--large needs --out DIR')
  if (!(Number.isInteger(count) && count >= 1 && count <= 1000)) throw new Error('--documents takes 1 to 1000')
  const p = PATIENTS.xiaoming
  const each = Math.floor((mb * 1e6) / count)
  const docs = Array.from({ length: count }, (_, n) => attachmentOf('large ' + n, `scan-${n + 1} 📄.pdf`, p, b64(each, 100 + n)))
  const body = count === 1
    ? { event: 'ADD_CASE_ATTACHMENT', payload: { attachment: docs[0], case: caseBasics('large', p) } }
    : { event: 'ADD_CASE_ATTACHMENT', payload: { attachment: docs[0], case: { ...caseBasics('large', p), attachments: docs.slice(1) } } }
  const bytes = serialise(body)
  const name = `large-${mb}mb-${count}doc.json`
  mkdirSync(outDir, { recursive: true })
  writeFileSync(join(outDir, name), bytes)
  const [, secret] = SECRETS[0]
  console.log(JSON.stringify({ file: name, bytes: bytes.length, sha256: sha256hex(bytes), secret, 'x-cv-signature': sign(secret, bytes) }, null, 2))
}

function altered(outDir) {
  if (!outDir) throw new Error('--altered needs --out DIR')
  mkdirSync(outDir, { recursive: true })
  const base = allFiles().get('payment-completed.full.json').bytes
  for (const [name, , f] of BODY_TRANSFORMS) writeFileSync(join(outDir, name), f(base))
}

function main(argv) {
  const value = (flag) => (argv.includes(flag) ? argv[argv.indexOf(flag) + 1] : undefined)
  if (argv.includes('--large')) return large(Number(value('--large')), value('--out'), Number(value('--documents') ?? 1))
  if (argv.includes('--altered')) return altered(value('--out'))
  const files = allFiles()
  const dir = HERE
  const vectorsFile = join(HERE, '..', 'carevalidate.json')
  if (argv.includes('--check')) {
    const problems = []
    for (const [name, { bytes }] of files) if (!existsSync(join(dir, name)) || !readFileSync(join(dir, name)).equals(bytes)) problems.push(name)
    for (const name of readdirSync(dir)) if (name.endsWith('.json') && !files.has(name)) problems.push(name + ' (not generated)')
    const fresh = buildVectors(files)
    const stored = existsSync(vectorsFile) ? JSON.parse(readFileSync(vectorsFile, 'utf8')) : {}
    fresh.cross_checked_with = stored.cross_checked_with
    if (JSON.stringify(fresh) !== JSON.stringify(stored)) problems.push('../carevalidate.json')
    if (problems.length) throw new Error('differs: ' + problems.join(', '))
    return console.log(`${files.size} bodies and ../carevalidate.json are as generated`)
  }
  for (const [name, { bytes }] of files) writeFileSync(join(dir, name), bytes)
  const doc = buildVectors(files)
  if (!argv.includes('--no-crosscheck')) crossCheck(doc, join(HERE, '..'))
  writeFileSync(vectorsFile, JSON.stringify(doc, null, 2) + '\n')
  console.log(`${files.size} bodies, ${new Set([...files.values()].map((f) => f.event)).size} events; cross-checked with ${doc.cross_checked_with.join(', ')}`)
}

if (process.argv[1] && fileURLToPath(import.meta.url) === process.argv[1]) {
  try {
    main(process.argv.slice(2))
  } catch (e) {
    console.error(e.message)
    process.exitCode = 1
  }
}
